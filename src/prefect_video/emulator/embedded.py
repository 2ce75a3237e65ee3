"""Embedded provider: one emulator in this process, for first steps, demos and notebooks.

Its generations are kept in a file under Prefect's home, so that a run that was killed continues where it stopped; when
another process has that file open, this one keeps its generations in memory. With `PREFECT_VIDEO_EMULATOR_ENDPOINT`
set, an emulator that runs elsewhere is used instead. It is imported and started by the first request that it is sent: a
plan, or a run that finds everything stored, needs none.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from prefect_video.emulator.credentials import DEFAULT_KEY, DEFAULT_WEBHOOK_SECRET
from prefect_video.errors import InvalidInput
from prefect_video.providers import Account
from prefect_video.providers.sora import SoraProvider

if TYPE_CHECKING:
    from prefect_video.emulator.threaded import Emulator

logger = logging.getLogger(__name__)

DEFAULT_SPEED: Final = 20.0
"""Times faster than a real provider: a short clip takes seconds, and progress is still visible."""

_ENDPOINT: Final = "http://127.0.0.1/v1/sora"
"""Address of the embedded emulator before it is started and has a port."""

_lock = threading.Lock()
_running: Emulator | None = None


def open_provider(environ: Mapping[str, str]) -> SoraProvider:
    """Return a provider that makes real videos at no cost; its first request starts the emulator.

    `PREFECT_VIDEO_EMULATOR_SPEED` divides its working time (20 by default).

    Raises:
        InvalidInput: A variable is not valid.
    """
    endpoint = environ.get("PREFECT_VIDEO_EMULATOR_ENDPOINT")
    key = environ.get("PREFECT_VIDEO_EMULATOR_KEY") or DEFAULT_KEY
    if endpoint:
        return SoraProvider(
            api_key=key, endpoint=endpoint, plan="emulator", name="emulator", webhook_secrets=(DEFAULT_WEBHOOK_SECRET,)
        )
    _speed(environ)
    return SoraProvider(
        api_key=DEFAULT_KEY,
        endpoint=_ENDPOINT,
        plan="emulator",
        webhook_secrets=(DEFAULT_WEBHOOK_SECRET,),
        name="emulator",
        # The port differs from process to process; jobs in the ledger must still belong to the same account.
        account=Account(provider="emulator", base_url=_ENDPOINT, id="emulator-embedded"),
        transport=_EmbeddedTransport(environ),
    )


class _EmbeddedTransport(httpx.AsyncBaseTransport):
    """Transport to the emulator of this process, which the first request starts."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        # Without certificates, which take a while to load: it is plain HTTP on loopback.
        self._http = httpx.AsyncHTTPTransport(verify=False, limits=httpx.Limits())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the port that the emulator has got."""
        try:
            emulator = await asyncio.to_thread(start_emulator, self._environ)
        except OSError as error:
            raise httpx.ConnectError(f"the embedded emulator cannot be started: {error}", request=request) from error
        address = httpx.URL(emulator.url)
        request.url = request.url.copy_with(host=address.host, port=address.port)
        request.headers["Host"] = address.netloc.decode()
        return await self._http.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections; the emulator goes on until the process ends."""
        await self._http.aclose()


def start_emulator(environ: Mapping[str, str]) -> Emulator:
    """Return the emulator of this process, starting it with the first call."""
    global _running
    with _lock:
        if _running is None:
            _running = _start(_speed(environ), _home(environ) / "video-emulator.db")
            # The thread is a daemon: without this, the last changes would be lost at exit.
            _at_exit(_running.stop)
        return _running


def _start(speed: float, db: Path) -> Emulator:
    from prefect_video.emulator.settings import EmulatorSettings
    from prefect_video.emulator.state_store import StateStoreError
    from prefect_video.emulator.threaded import Emulator

    settings = EmulatorSettings(port=0, speed=speed, db=db)
    db.parent.mkdir(parents=True, exist_ok=True)
    emulator = Emulator(settings)
    try:
        emulator.start()
    except StateStoreError as error:
        logger.info("The embedded emulator keeps its generations in memory: %s", error)
        emulator = Emulator(settings.model_copy(update={"db": None}))
        emulator.start()
    return emulator


def _at_exit(work: Callable[[], None]) -> None:
    """Register work for the end of the interpreter.

    Plain `atexit` runs after the thread pools are closed, when the emulator can no longer be stopped in order; the
    private hook of `threading` runs before.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(work)


def _speed(environ: Mapping[str, str]) -> float:
    text = environ.get("PREFECT_VIDEO_EMULATOR_SPEED") or str(DEFAULT_SPEED)
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e6:
        raise InvalidInput(f"PREFECT_VIDEO_EMULATOR_SPEED: {text!r} is not a number above 0; set one, such as 20")
    return speed


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
