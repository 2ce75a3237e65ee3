"""PrioritySemaphore: how many at once, in what order, and what a cancelled wait leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from prefect_video.ledger import account_limits
from prefect_video.limits.priority_semaphore import PrioritySemaphore


@asynccontextmanager
async def all_taken(semaphore: PrioritySemaphore, at_once: int = 1) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(at_once):
            await stack.enter_async_context(semaphore.acquire(0))
        yield


async def settled() -> None:
    """Wait until no task can make progress without an event."""
    for _ in range(10):
        await asyncio.sleep(0)


async def serve(semaphore: PrioritySemaphore, *priorities: int) -> list[int]:
    """Return the order that slots are given in to waiters who come with these priorities."""
    order: list[int] = []

    async def wait(priority: int) -> None:
        async with semaphore.acquire(priority):
            order.append(priority)

    async with asyncio.TaskGroup() as waiting, all_taken(semaphore):
        for priority in priorities:
            waiting.create_task(wait(priority))
            await settled()
    return order


async def test_so_many_at_once() -> None:
    semaphore, inside, peak = PrioritySemaphore(3), 0, 0

    async def work() -> None:
        nonlocal inside, peak
        async with semaphore.acquire(0):
            inside += 1
            peak = max(peak, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(20)))
    assert peak == 3


async def test_by_priority_then_by_time() -> None:
    assert await serve(PrioritySemaphore(1), -1, 0, 1, 1, -1) == [1, 1, 0, -1, -1]


async def test_who_waits_long_enough_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_limits, "AGEING_SECONDS", 0.0)
    assert await serve(PrioritySemaphore(1), -1, 0, 1) == [-1, 0, 1]


async def test_the_holder_of_the_turn_gives_way_to_the_first_in_the_queue() -> None:
    semaphore, order = PrioritySemaphore(1), list[str]()

    async def patient() -> None:
        async with semaphore.acquire(-1) as turn:
            while len(order) < 2:
                await asyncio.sleep(0)
                await turn.yield_to_higher()
            order.append("low")

    async def hasty(name: str, priority: int) -> None:
        async with semaphore.acquire(priority):
            order.append(name)

    async with asyncio.TaskGroup() as all_of_them:
        all_of_them.create_task(patient())
        await settled()
        all_of_them.create_task(hasty("last", -1))
        all_of_them.create_task(hasty("normal", 0))
        all_of_them.create_task(hasty("high", 1))
    assert order == ["high", "normal", "low", "last"]


async def test_a_waiter_that_is_cancelled_takes_no_turn_with_it() -> None:
    semaphore = PrioritySemaphore(1)

    async def wait() -> None:
        async with semaphore.acquire(0) as turn:
            await asyncio.sleep(0)
            await turn.yield_to_higher()

    for steps in range(8):
        for cancelled in range(3):
            tasks = [asyncio.create_task(wait()) for _ in range(3)]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[cancelled].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert semaphore._free == 1


async def test_nor_does_a_waiter_that_had_given_way() -> None:
    semaphore = PrioritySemaphore(1)
    blocked = asyncio.Event()

    async def low() -> None:
        async with semaphore.acquire(-1) as turn:
            await settled()
            await turn.yield_to_higher()

    async def high() -> None:
        async with semaphore.acquire(1):
            await blocked.wait()

    waiting, busy = asyncio.create_task(low()), asyncio.create_task(high())
    await settled()
    await settled()
    waiting.cancel()
    await asyncio.wait([waiting])
    blocked.set()
    await busy
    assert semaphore._free == 1


async def test_a_slot_that_is_given_back_early_is_free_once() -> None:
    semaphore = PrioritySemaphore(1)
    async with semaphore.acquire(0) as slot:
        slot.release()
        slot.release()
        async with semaphore.acquire(0):
            assert not semaphore.is_free
        assert semaphore.is_free
    assert semaphore._free == 1


async def test_the_first_in_the_queue_are_near_and_a_higher_one_gets_the_slot_before_them() -> None:
    semaphore, near, order = PrioritySemaphore(1, near=2), list[str](), list[str]()

    async def work(name: str, priority: int) -> None:
        async with semaphore.queue(priority) as slot:
            await slot.wait_until_near()
            near.append(name)
            await slot.take()
            order.append(name)

    async with asyncio.TaskGroup() as working, all_taken(semaphore):
        for number in range(4):
            working.create_task(work(str(number), 0))
        await settled()
        working.create_task(work("high", 1))
        await settled()
        assert near == ["0", "1"]
    assert order == ["high", "0", "1", "2", "3"]
    assert sorted(near) == ["0", "1", "2", "3", "high"]
    assert (semaphore._free, semaphore._free_near) == (1, 2)


async def test_a_near_waiter_that_leaves_makes_room_for_the_next() -> None:
    semaphore = PrioritySemaphore(1, near=1)

    async def work(takes: bool) -> None:
        async with semaphore.queue(0) as slot:
            await slot.wait_until_near()
            if takes:
                await slot.take()

    for steps in range(8):
        for cancelled in range(3):
            async with all_taken(semaphore):
                tasks = [asyncio.create_task(work(takes)) for takes in (True, False, True)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                tasks[cancelled].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert (semaphore._free, semaphore._free_near) == (1, 1)
