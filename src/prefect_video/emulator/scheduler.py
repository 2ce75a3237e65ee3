"""What is due when: one heap and one waiting task for all generations."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable


class Scheduler:
    """Calls ``step`` with a name when its time has come.

    Iterating runs it; each item is the number of steps just taken.
    """

    def __init__(self, step: Callable[[str], None]) -> None:
        self._step = step
        self._jobs: list[tuple[float, str]] = []
        self._news = asyncio.Event()

    def add(self, due: float, name: str) -> None:
        """Have ``step(name)`` called at Unix time ``due``, or as soon as may be when that is past."""
        heapq.heappush(self._jobs, (due, name))
        self._news.set()

    def clear(self) -> None:
        """Drop every job."""
        self._jobs.clear()

    async def __aiter__(self) -> AsyncIterator[int]:
        while True:
            await self._wait()
            taken = 0
            while self._jobs and self._jobs[0][0] <= time.time():
                self._step(heapq.heappop(self._jobs)[1])
                taken += 1
            if taken:
                yield taken

    async def _wait(self) -> None:
        """Until the first job is due or a new one came."""
        self._news.clear()
        if not self._jobs:
            await self._news.wait()
            return
        seconds = self._jobs[0][0] - time.time()
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                return
