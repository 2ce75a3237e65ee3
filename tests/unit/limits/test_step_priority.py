"""Step priority in virtual time: who goes first, and how long at most."""

from __future__ import annotations

import asyncio

from prefect_video.limits import StepPriority, StepRank
from tests.support.virtual_time import now, run


def test_downloads_wait_for_urgent_jobs_and_go_before_stores() -> None:
    async def work() -> None:
        priority, order = StepPriority(), list[str]()

        async def step(rank: StepRank) -> None:
            await priority.yield_to_urgent(rank)
            order.append(f"{rank.name} {now():.1f}")

        priority.begin_urgent("a")
        priority.begin_urgent("b")
        steps = [asyncio.create_task(step(rank)) for rank in (StepRank.STORE, StepRank.DOWNLOAD)]
        await asyncio.sleep(0.1)
        priority.end_urgent("a")
        await asyncio.sleep(0.1)
        assert order == []
        priority.end_urgent("b")
        await asyncio.gather(*steps)
        assert order == ["DOWNLOAD 0.2", "STORE 0.2"]

    run(work)


def test_nothing_waits_longer_than_a_second() -> None:
    async def work() -> None:
        priority = StepPriority()

        async def hurry() -> None:
            for number in range(100):
                priority.begin_urgent(str(number))
                await asyncio.sleep(0.1)

        urgent = asyncio.create_task(hurry())
        await asyncio.sleep(0.05)
        began = now()
        await priority.yield_to_urgent(StepRank.STORE)
        assert 0.9 < now() - began < 1.1
        await urgent

    run(work)
