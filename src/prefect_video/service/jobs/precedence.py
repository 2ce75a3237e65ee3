"""Precedence of requests: clients wait for the answers, and none waits for the next step of an accepted job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_LONGEST_WAIT_SECONDS: Final = 0.25
"""Longest wait of one step for the requests: a lasting burst slows the work down, and must not stop it."""


class RequestPrecedence:
    """Precedence of the requests that are being accepted over what goes on in the background of one event loop."""

    def __init__(self) -> None:
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold precedence while a request is being accepted."""
        self._open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()

    async def wait_until_idle(self, seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """Wait until no request is being accepted, for a limited time.

        Args:
            seconds: The longest wait.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    await self._idle.wait()
