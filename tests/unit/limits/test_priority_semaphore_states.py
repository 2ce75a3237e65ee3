"""A state machine of waiters that come, go, give way and are cancelled at any step: no slot is lost or held twice."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prefect_video.limits.priority_semaphore import PrioritySemaphore, Slot
from tests.support.virtual_time import VirtualLoop

WAITERS = st.integers(min_value=0, max_value=10**6)
STEPS = st.integers(min_value=0, max_value=4)
"""Iterations of the loop before a cancellation: none, or until the waiter is anywhere between two of its waits."""


class Waiter:
    """A task that prepares once its slot is near, takes it, and keeps it until the end."""

    def __init__(self, machine: SemaphoreMachine, priority: int, waits: bool) -> None:
        self.ended = asyncio.Event()
        self.gives_way = asyncio.Event()
        self.was_given = False
        self.is_near = False
        self.slot: Slot | None = None
        self._machine = machine
        self.task = asyncio.create_task(self._work(priority, waits))

    @property
    def is_queued(self) -> bool:
        return self.slot is not None and not self.task.done() and self.slot._is_queued

    async def _work(self, priority: int, waits: bool) -> None:
        async with self._machine.semaphore.queue(priority, waits=waits, on_given=self._check_order) as self.slot:
            await self.slot.wait_until_near()
            self.is_near = True
            await self.slot.take()
            while not self.ended.is_set():
                if self.gives_way.is_set() and self.slot.is_held:
                    self.gives_way.clear()
                    await self.slot.yield_to_higher()
                    assert self.slot.is_held
                await asyncio.sleep(1.0)

    def _check_order(self) -> None:
        self.was_given = True
        if self.slot is not None:
            assert all(self.slot.place <= other.slot.place for other in self._machine.queued() if other.slot)


class SemaphoreMachine(RuleBasedStateMachine):
    """Whatever its waiters do, the semaphore gives all of its slots, in the order of the queue."""

    @initialize(at_once=st.integers(1, 3), near=st.integers(0, 3))
    def build(self, at_once: int, near: int) -> None:
        self.at_once, self.near = at_once, near
        self.semaphore = PrioritySemaphore(at_once, near=near)
        self.waiters: list[Waiter] = []
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)

    def queued(self) -> list[Waiter]:
        return [waiter for waiter in self.waiters if waiter.is_queued]

    def holding(self) -> list[Waiter]:
        return [waiter for waiter in self.waiters if waiter.slot and waiter.slot.is_held]

    @rule(priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=4), waits=st.sampled_from([True, True, False]))
    def come(self, priorities: list[int], waits: bool) -> None:
        async def start() -> None:
            self.waiters.extend(Waiter(self, priority, waits) for priority in priorities)

        self.runner.run(start())

    @rule(steps=st.integers(1, 4), seconds=st.sampled_from([0.0, 2.0, 700.0]))
    def go_on(self, steps: int, seconds: float) -> None:
        async def wait() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            await asyncio.sleep(seconds)

        self.runner.run(wait())

    @rule(number=WAITERS)
    def end(self, number: int) -> None:
        if self.waiters:
            self.waiters[number % len(self.waiters)].ended.set()

    @rule(number=WAITERS)
    def yield_to_others(self, number: int) -> None:
        if self.waiters:
            self.waiters[number % len(self.waiters)].gives_way.set()

    @rule(number=WAITERS)
    def release_early(self, number: int) -> None:
        if holding := self.holding():
            slot: Any = holding[number % len(holding)].slot
            slot.release()
            slot.release()

    @rule(number=WAITERS, steps=STEPS)
    def cancel(self, number: int, steps: int) -> None:
        async def cancel() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            self.waiters[number % len(self.waiters)].task.cancel()

        if self.waiters:
            self.runner.run(cancel())

    @invariant()
    def no_slot_is_held_twice_or_lost(self) -> None:
        if hasattr(self, "semaphore"):
            held, queued = len(self.holding()), len(self.queued())
            assert held + self.semaphore._free == self.at_once
            assert not queued or held >= self.at_once

    @invariant()
    def as_many_are_near_as_can_be(self) -> None:
        if hasattr(self, "semaphore"):
            queued = self.queued()
            called = [waiter for waiter in queued if waiter.slot and waiter.slot._is_called]
            assert len(called) == min(self.near, len(queued))
            assert len(called) + self.semaphore._free_near == self.near
            assert all(waiter in called or waiter.was_given or not waiter.is_near for waiter in queued)

    def teardown(self) -> None:
        async def end_all() -> None:
            for waiter in self.waiters:
                waiter.ended.set()
            ended = await asyncio.gather(*(waiter.task for waiter in self.waiters), return_exceptions=True)
            assert all(error is None or isinstance(error, asyncio.CancelledError) for error in ended)

        if hasattr(self, "semaphore"):
            self.runner.run(end_all())
            assert (self.semaphore._free, self.semaphore._free_near) == (self.at_once, self.near)
            self.runner.close()


TestPrioritySemaphore = SemaphoreMachine.TestCase
TestPrioritySemaphore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
