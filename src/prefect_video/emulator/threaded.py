"""The emulator inside another program: in a thread of its own, for tests, demos and notebooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from prefect_video.emulator.faults.rules import FaultRule, parse_faults
from prefect_video.emulator.server import Running, running
from prefect_video.emulator.settings import EmulatorSettings

Result = TypeVar("Result")


class Emulator:
    """A provider that runs while the ``with`` block lasts.

    Example:
        ```python
        with Emulator(EmulatorSettings(port=0, speed=100)) as emulator:
            client = SoraClient(emulator.endpoint, emulator.key)
        ```

    Attributes:
        settings: How it behaves; by default a free port, everything else as in EmulatorSettings.
    """

    def __init__(self, settings: EmulatorSettings | None = None) -> None:
        self.settings = settings if settings is not None else EmulatorSettings(port=0)
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: Running | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            OSError: A port cannot be bound.
            StateStoreError: The ``db`` file cannot be used.
            RuntimeError: It runs already.
        """
        if self._thread is not None:
            raise RuntimeError("this emulator is already running; stop it first or make another one")
        self._started.clear()
        self._error = None
        self._thread = threading.Thread(target=self._main, name="emulator", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            self._thread = None
            raise self._error

    def stop(self) -> None:
        """Stop it and wait until it is gone; nothing happens when it does not run."""
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None
        self._running = None

    @property
    def url(self) -> str:
        """Root of the API server, e.g. ``http://127.0.0.1:8123``."""
        return self._alive.addresses.url

    @property
    def endpoint(self) -> str:
        """Base URL of the Sora dialect, e.g. ``http://127.0.0.1:8123/v1/sora``."""
        return self._alive.addresses.endpoint

    @property
    def cdn(self) -> str:
        """Root of the download host."""
        return self._alive.addresses.cdn

    @property
    def key(self) -> str:
        """The first API key."""
        return self.settings.keys[0]

    @property
    def webhook_secret(self) -> str:
        """What signs the webhooks of that key."""
        return self.settings.webhook_secrets.get(self.key, self.settings.webhook_secret)

    def usage(self) -> dict[str, Any]:
        """What ``GET /_emulator/books`` answers."""
        engine = self._alive.engine
        return self._call(lambda: engine.books.report(engine.now_concurrency))

    def add_fault(self, rule: FaultRule | Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Put up a fault rule, given whole, as a mapping, or by its fields.

        Raises:
            ValueError: The fields make no rule.
        """
        rules = [rule] if isinstance(rule, FaultRule) else parse_faults({**(rule or {}), **fields})
        self._call(lambda: self._alive.engine.faults.add(rules))

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, with how often each was seen and fired."""
        return self._call(lambda: self._alive.engine.faults.describe())

    def clear_faults(self) -> None:
        """Take every fault rule down."""
        self._call(lambda: self._alive.engine.faults.clear())

    def reset(self) -> None:
        """Forget every generation, count and fault."""
        self._await(self._alive.engine.reset())

    def restart(self) -> None:
        """Forget every generation, as an engine without a disk does, and begin counted ids anew; the books go on."""
        self._await(self._alive.engine.restart())

    def change_habits(self, **changes: Any) -> None:
        """Go on with other settings of how prompts, keys, times and ids are told, such as ``echo_prompt="cut"``.

        Raises:
            ValueError: A setting is not usable.
        """
        self._call(lambda: self._alive.engine.change_habits(**changes))

    def change_speed(self, speed: float) -> None:
        """Go on at another speed, with what is under way too."""
        self._call(lambda: self._alive.engine.change_speed(speed))

    def wait_until_idle(self, timeout_seconds: float = 60.0) -> None:
        """Wait until no generation is under way.

        Raises:
            TimeoutError: Some still are after ``timeout_seconds``.
        """
        self._await(asyncio.wait_for(self._alive.engine.idle.wait(), timeout_seconds))

    @property
    def _alive(self) -> Running:
        if self._running is None:
            raise RuntimeError("the emulator is not running; use it in a with block or call start()")
        return self._running

    def _call(self, work: Callable[[], Result]) -> Result:
        """Do something on the emulator's loop and wait for the result."""

        async def do() -> Result:
            return work()

        return self._await(do())

    def _await(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            work.close()
            raise RuntimeError("the emulator is not running; use it in a with block or call start()")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 -- handed to the thread that started us
            self._error = error
        finally:
            self._started.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with running(self.settings) as self._running:
            self._started.set()
            await self._stop.wait()
