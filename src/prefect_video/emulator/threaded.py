"""Emulator in a background thread of this process, for tests, demos and notebooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from prefect_video.emulator.faults import FaultRule, parse_faults
from prefect_video.emulator.server import RunningEmulator, run_emulator
from prefect_video.emulator.settings import EmulatorSettings

Result = TypeVar("Result")


class Emulator:
    """Emulated provider that runs in a background thread while its `with` block lasts.

    Example:
        ```python
        with Emulator(EmulatorSettings(port=0, speed=100)) as emulator:
            provider = SoraProvider(api_key=emulator.key, endpoint=emulator.endpoint)
        ```

    Attributes:
        settings: Settings of the emulator; by default those of `EmulatorSettings` on a free port.
    """

    def __init__(self, settings: EmulatorSettings | None = None) -> None:
        self.settings = settings if settings is not None else EmulatorSettings(port=0)
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: RunningEmulator | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        """Start the emulator and wait until it answers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the emulator."""
        self.stop()

    def start(self) -> None:
        """Start the emulator and wait until it answers.

        Raises:
            OSError: A port cannot be bound.
            StateStoreError: The `db` file cannot be used.
            RuntimeError: It is already running.
        """
        if self._thread is not None:
            raise RuntimeError("this emulator is already running; stop it first or make another one")
        self._started.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run_thread, name="emulator", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            self._thread = None
            raise self._error

    def stop(self) -> None:
        """Stop the emulator and wait until its thread has ended; do nothing if it is not running."""
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            # An asyncio event may only be set on its own loop.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None
        self._running = None

    @property
    def url(self) -> str:
        """Return the root of the API server, e.g. `http://127.0.0.1:8123`."""
        return self._emulator.addresses.url

    @property
    def endpoint(self) -> str:
        """Return the base URL of the Sora dialect, e.g. `http://127.0.0.1:8123/v1/sora`."""
        return self._emulator.addresses.endpoint

    @property
    def cdn(self) -> str:
        """Return the root of the download host."""
        return self._emulator.addresses.cdn

    @property
    def key(self) -> str:
        """Return the first API key."""
        return self.settings.keys[0]

    @property
    def webhook_secret(self) -> str:
        """Return the secret that signs the webhooks of that key."""
        return self.settings.webhook_secrets.get(self.key, self.settings.webhook_secret)

    def usage(self) -> dict[str, Any]:
        """Return the usage counters, as `GET /_emulator/usage` does."""
        engine = self._emulator.engine
        return self._call_on_loop(lambda: engine.usage.report(engine.now_concurrency))

    def requests(self) -> list[dict[str, Any]]:
        """Return what each accepted request was for, as `GET /_emulator/requests` does."""
        return self._call_on_loop(self._emulator.engine.describe_requests)

    def add_fault(self, rule: FaultRule | Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Add a fault rule, given as an object, as a mapping, or by its fields.

        Raises:
            ValueError: The fields are not a valid rule.
        """
        rules = [rule] if isinstance(rule, FaultRule) else parse_faults({**(rule or {}), **fields})
        self._call_on_loop(lambda: self._emulator.engine.faults.add(rules))

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules in force, each with the counts `seen` and `fired`."""
        return self._call_on_loop(lambda: self._emulator.engine.faults.describe())

    def clear_faults(self) -> None:
        """Remove every fault rule."""
        self._call_on_loop(lambda: self._emulator.engine.faults.clear())

    def reset(self) -> None:
        """Delete every generation, counter and fault."""
        self._await_on_loop(self._emulator.engine.reset())

    def restart(self) -> None:
        """Delete every generation, as an engine without a disk does on restart, and keep the usage."""
        self._await_on_loop(self._emulator.engine.restart())

    def issue_key(self, key: str, *, same_account_as: str | None = None) -> None:
        """Accept a key from now on: a new account, or one more key of the account of another key."""
        keys = self._emulator.engine.api_keys
        self._call_on_loop(lambda: keys.issue(key, same_account_as=same_account_as))

    def revoke_key(self, key: str) -> None:
        """Refuse a key from now on; what was sent with it goes on."""
        self._call_on_loop(lambda: self._emulator.engine.api_keys.revoke(key))

    def change_settings(self, **changes: Any) -> None:
        """Replace settings that decide how prompts, metadata, times and ids are reported, e.g. `echo_prompt="cut"`.

        Raises:
            ValueError: A setting is not valid.
        """
        self._call_on_loop(lambda: self._emulator.engine.change_settings(**changes))

    def change_speed(self, speed: float) -> None:
        """Change the speed, for generations in progress too."""
        self._call_on_loop(lambda: self._emulator.engine.change_speed(speed))

    def wait_until_idle(self, timeout_seconds: float = 60.0) -> None:
        """Wait until no generation is in progress.

        Raises:
            TimeoutError: Some are still in progress after `timeout_seconds`.
        """
        self._await_on_loop(asyncio.wait_for(self._emulator.engine.idle.wait(), timeout_seconds))

    @property
    def _emulator(self) -> RunningEmulator:
        """Return the running emulator.

        Raises:
            RuntimeError: It is not running.
        """
        if self._running is None:
            raise RuntimeError("the emulator is not running; use it in a with block or call start()")
        return self._running

    def _call_on_loop(self, work: Callable[[], Result]) -> Result:
        """Call `work` on the emulator's event loop and return its result.

        The engine is not thread-safe: nothing of it may be touched from the calling thread.
        """

        async def call() -> Result:
            return work()

        return self._await_on_loop(call())

    def _await_on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            work.close()
            raise RuntimeError("the emulator is not running; use it in a with block or call start()")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 -- raised again by `start` in the thread that called it
            self._error = error
        finally:
            # Also after a failure: `start` waits for this event without a time limit.
            self._started.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with run_emulator(self.settings) as self._running:
            self._started.set()
            await self._stop.wait()
