"""Scheduler of status changes: one heap and one waiting task for all generations."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable


class Scheduler:
    """Timer queue that calls `step(name)` when its time has come.

    Iterating over it asynchronously runs it; each item is the number of steps just taken.
    """

    def __init__(self, step: Callable[[str], None]) -> None:
        self._step = step
        self._due: list[tuple[float, str]] = []
        self._added = asyncio.Event()

    def add(self, due: float, name: str) -> None:
        """Schedule `step(name)` for Unix time `due`; for the next round if that is past."""
        heapq.heappush(self._due, (due, name))
        self._added.set()

    def clear(self) -> None:
        """Drop every scheduled step."""
        self._due.clear()

    async def __aiter__(self) -> AsyncIterator[int]:
        while True:
            await self._wait()
            taken = 0
            while self._due and self._due[0][0] <= time.time():
                # Never removed early: a step that has become stale is recognised and skipped by its receiver.
                self._step(heapq.heappop(self._due)[1])
                taken += 1
            if taken:
                yield taken

    async def _wait(self) -> None:
        """Wait until the first step is due or another one is added."""
        # Cleared before the heap is read: a step added after that sets it again and is not missed.
        self._added.clear()
        if not self._due:
            await self._added.wait()
            return
        seconds = self._due[0][0] - time.time()
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._added.wait()
            except TimeoutError:
                return
