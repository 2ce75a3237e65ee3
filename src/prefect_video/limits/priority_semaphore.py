"""Priority semaphore: waiters are served by priority, then by time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prefect_video.ledger import queue_rank


class Slot:
    """A place in the queue of a semaphore, and the slot once it is given; one task waits for it.

    Attributes:
        place: Rank in the queue; the lowest is the first.
        is_held: True while the slot is held.
    """

    def __init__(self, semaphore: PrioritySemaphore, place: float, on_given: Callable[[], None] | None) -> None:
        self.place = place
        self.is_held = False
        self._semaphore = semaphore
        self._on_given = on_given
        self._is_queued = False
        self._is_called = False
        self._is_given = False
        self._is_near = False
        # Not an event for each: thousands wait, and most of them for one of both.
        self._woken: asyncio.Future[None] | None = None

    async def take(self) -> None:
        """Wait until the slot is given; a wait that is cancelled keeps the place until its context ends."""
        while not self._is_given:
            await self._wait_until_woken()

    async def wait_until_near(self) -> None:
        """Wait until the slot is given, or few are before it in the queue."""
        while not self._is_near:
            await self._wait_until_woken()

    def release(self) -> None:
        """Give the slot back before its context ends; one that is not held stays as it is."""
        if self.is_held:
            self.is_held = False
            self._semaphore._release()

    async def yield_to_higher(self) -> None:
        """Let waiters with precedence go first; return once the slot is held again."""
        if self._semaphore.next_sequence() < self.place:
            self.release()
            self._is_given = False
            self._semaphore._enter(self)
            await self.take()

    async def _wait_until_woken(self) -> None:
        self._woken = asyncio.get_running_loop().create_future()
        await self._woken

    def _wake(self, *, given: bool) -> None:
        """Wake the waiter up: its slot is given, or near."""
        self._is_near = True
        self._is_given = self._is_given or given
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class PrioritySemaphore:
    """A semaphore whose waiters have priorities.

    Args:
        at_once: Number of slots.
        near: Number of waiters that are near to a slot: they can prepare for it.
    """

    def __init__(self, at_once: int, *, near: int = 0) -> None:
        self._free = at_once
        self._free_near = near
        self._has_near = near > 0
        self._waiting: list[tuple[float, int, Slot]] = []
        self._far: list[tuple[float, int, Slot]] = []
        self._order = itertools.count()

    @property
    def is_free(self) -> bool:
        """True while a slot can be had at once."""
        return self._free > 0

    @asynccontextmanager
    async def queue(
        self, priority: int, *, waits: bool = True, on_given: Callable[[], None] | None = None
    ) -> AsyncIterator[Slot]:
        """Have a place in the queue, and then the slot, for as long as the context lasts.

        Args:
            priority: Steps above normal, or below.
            waits: Wait where no slot is free; otherwise one too many is given, and those that wait make up for it.
            on_given: Called at the moment that the slot is given: its waiter goes on later.
        """
        slot = Slot(self, queue_rank(priority, asyncio.get_running_loop().time()), on_given)
        self._enter(slot, waits=waits)
        try:
            yield slot
        finally:
            self._leave(slot)
            slot.release()

    @asynccontextmanager
    async def acquire(self, priority: int) -> AsyncIterator[Slot]:
        """Hold a slot for as long as the context lasts.

        Args:
            priority: Steps above normal, or below.
        """
        async with self.queue(priority) as slot:
            await slot.take()
            yield slot

    def next_sequence(self) -> float:
        """Return the place of the first waiter in the queue; infinity where there is none."""
        first = _first_queued(self._waiting)
        return first.place if first else float("inf")

    def _enter(self, slot: Slot, *, waits: bool = True) -> None:
        if self._free > 0 or not waits:
            self._free -= 1
            self._give(slot)
            return
        slot._is_queued = True
        entry = (slot.place, next(self._order), slot)
        heapq.heappush(self._waiting, entry)
        if self._has_near:
            heapq.heappush(self._far, entry)
            self._call_near()

    def _leave(self, slot: Slot) -> None:
        """Take a waiter out of the queue; one that is not in it stays as it is."""
        if slot._is_queued:
            slot._is_queued = False
            self._end_near(slot)

    def _release(self) -> None:
        """Give a slot to the next waiter, or back."""
        if self._free >= 0 and (first := _first_queued(self._waiting)):
            first._is_queued = False
            self._give(first)
            self._end_near(first)
        else:
            self._free += 1

    def _give(self, slot: Slot) -> None:
        slot.is_held = True
        slot._wake(given=True)
        if slot._on_given:
            slot._on_given()

    def _end_near(self, slot: Slot) -> None:
        if slot._is_called:
            slot._is_called = False
            self._free_near += 1
            self._call_near()

    def _call_near(self) -> None:
        """Call waiters, by their place, for as long as some can be near."""
        while self._free_near and (slot := _first_queued(self._far)):
            heapq.heappop(self._far)
            if slot._is_called:
                # It has given way and come back: it is in the heap twice.
                continue
            self._free_near -= 1
            slot._is_called = True
            slot._wake(given=False)


def _first_queued(entries: list[tuple[float, int, Slot]]) -> Slot | None:
    """Return the first of a heap that is queued still, after removing those before it."""
    while entries and not entries[0][2]._is_queued:
        heapq.heappop(entries)
    return entries[0][2] if entries else None
