"""The embedded provider: an emulator in this process, for first steps, demos and notebooks.

It remembers its generations in a file under Prefect's home, so that a run that was killed goes on where it was; when
another process has that file, this one keeps its generations in memory. With `PREFECT_VIDEO_EMULATOR_ENDPOINT` set,
an emulator that runs elsewhere is used instead.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from prefect_video.emulator.settings import EmulatorSettings
from prefect_video.emulator.state_store import StateStoreError
from prefect_video.emulator.threaded import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.providers import Account
from prefect_video.providers.sora import SoraProvider

logger = logging.getLogger(__name__)

DEFAULT_SPEED: Final = 20.0

_lock = threading.Lock()
_running: Emulator | None = None


def open_provider(environ: Mapping[str, str]) -> SoraProvider:
    """A provider that makes real videos at no cost; starts the emulator with the first call.

    `PREFECT_VIDEO_EMULATOR_SPEED` divides its working time (20 by default).

    Raises:
        InvalidInput: A variable is not usable.
    """
    endpoint = environ.get("PREFECT_VIDEO_EMULATOR_ENDPOINT")
    key = environ.get("PREFECT_VIDEO_EMULATOR_KEY") or EmulatorSettings().keys[0]
    if endpoint:
        return SoraProvider(api_key=key, endpoint=endpoint, plan="emulator", name="emulator")
    emulator = start(environ)
    return SoraProvider(
        api_key=emulator.key,
        endpoint=emulator.endpoint,
        plan="emulator",
        webhook_secrets=(emulator.webhook_secret,),
        name="emulator",
        # Its port is another one in every process; the account stays the same.
        account=Account(provider="emulator", base_url=emulator.endpoint, id="emulator-embedded"),
    )


def start(environ: Mapping[str, str]) -> Emulator:
    """The emulator of this process, started if it does not run yet."""
    global _running
    with _lock:
        if _running is None:
            _running = _start(_speed(environ), _home(environ) / "video-emulator.db")
            _at_exit(_running.stop)
        return _running


def _start(speed: float, db: Path) -> Emulator:
    settings = EmulatorSettings(port=0, speed=speed, db=db)
    db.parent.mkdir(parents=True, exist_ok=True)
    emulator = Emulator(settings)
    try:
        emulator.start()
    except StateStoreError as error:
        logger.info("the embedded emulator keeps its generations in memory: %s", error)
        emulator = Emulator(settings.model_copy(update={"db": None}))
        emulator.start()
    return emulator


def _at_exit(work: Callable[[], None]) -> None:
    """Runs work when the interpreter ends, while thread pools still take work: plain `atexit` comes after that."""
    register = getattr(threading, "_register_atexit", atexit.register)
    register(work)


def _speed(environ: Mapping[str, str]) -> float:
    text = environ.get("PREFECT_VIDEO_EMULATOR_SPEED") or str(DEFAULT_SPEED)
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise InvalidInput(f"PREFECT_VIDEO_EMULATOR_SPEED: {text!r} is not a number above 0")
    return speed


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
