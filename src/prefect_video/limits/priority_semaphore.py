"""PrioritySemaphore: so many at once, and those that wait in the order of their priority, then of time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect_video.ledger import queue_rank


class Slot:
    """One that was given; see `PrioritySemaphore.of`.

    Attributes:
        is_held: Whether it is this one's turn still.
    """

    def __init__(self, turns: PrioritySemaphore, place: float) -> None:
        self._turns = turns
        self._place = place
        self.is_held = True

    async def yield_to_higher(self) -> None:
        """Lets those go before that have come meanwhile and come first; returns when it is this one's turn again."""
        if self._turns.next_sequence() < self._place:
            self.is_held = False
            self._turns._release()
            await self._turns._acquire(self._place)
            self.is_held = True


class PrioritySemaphore:
    """A semaphore whose waiters have priorities.

    Args:
        at_once: How many turns are given at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @asynccontextmanager
    async def acquire(self, priority: int) -> AsyncIterator[Slot]:
        """A turn, for as long as the context lasts.

        Args:
            priority: Steps above normal, or below.
        """
        place = queue_rank(priority, asyncio.get_running_loop().time())
        await self._acquire(place)
        turn = Slot(self, place)
        try:
            yield turn
        finally:
            if turn.is_held:
                self._release()

    async def _acquire(self, place: float) -> None:
        """Returns when it is the turn of somebody who stands there in the queue."""
        if self._free:
            self._free -= 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (place, next(self._order), given))
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        """Hands a turn to whoever is next."""
        self._forget_cancelled()
        if self._waiting:
            heapq.heappop(self._waiting)[2].set_result(None)
        else:
            self._free += 1

    def next_sequence(self) -> float:
        """Where the first of those that wait stands; infinity when nobody does."""
        self._forget_cancelled()
        return self._waiting[0][0] if self._waiting else float("inf")

    def _forget_cancelled(self) -> None:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
