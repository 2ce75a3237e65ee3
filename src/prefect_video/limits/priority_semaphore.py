"""Priority semaphore: waiters are served by priority, then by time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect_video.ledger import queue_rank


class Slot:
    """A slot that a semaphore has given out.

    Attributes:
        is_held: True while the slot is held.
    """

    def __init__(self, semaphore: PrioritySemaphore, place: float) -> None:
        self._semaphore = semaphore
        self._place = place
        self.is_held = True

    def release(self) -> None:
        """Give the slot back before its context ends; once it is, this does nothing."""
        if self.is_held:
            self.is_held = False
            self._semaphore._release()

    async def yield_to_higher(self) -> None:
        """Let waiters with precedence go first; return once the slot is held again."""
        if self._semaphore.next_sequence() < self._place:
            # Not held while waiting: a cancelled wait must not release the slot a second time.
            self.release()
            await self._semaphore._acquire(self._place)
            self.is_held = True


class PrioritySemaphore:
    """A semaphore whose waiters have priorities.

    Args:
        at_once: Number of slots.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @property
    def is_free(self) -> bool:
        """True while a slot can be had at once."""
        return self._free > 0

    @asynccontextmanager
    async def acquire(self, priority: int) -> AsyncIterator[Slot]:
        """Hold a slot for as long as the context lasts.

        Args:
            priority: Steps above normal, or below.
        """
        place = queue_rank(priority, asyncio.get_running_loop().time())
        await self._acquire(place)
        slot = Slot(self, place)
        try:
            yield slot
        finally:
            slot.release()

    async def _acquire(self, place: float) -> None:
        """Wait for a slot at a place in the queue."""
        if self._free:
            self._free -= 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (place, next(self._order), given))
        try:
            await given
        except asyncio.CancelledError:
            # Cancelled after the slot was given: pass it on, or it is lost.
            if given.done() and not given.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        """Give a slot to the next waiter, or back."""
        self._forget_cancelled()
        if self._waiting:
            heapq.heappop(self._waiting)[2].set_result(None)
        else:
            self._free += 1

    def next_sequence(self) -> float:
        """Return the place of the first waiter in the queue; infinity where there is none."""
        self._forget_cancelled()
        return self._waiting[0][0] if self._waiting else float("inf")

    def _forget_cancelled(self) -> None:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
