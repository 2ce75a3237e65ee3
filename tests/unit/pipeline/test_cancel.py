"""Cancelling: what is not sent is released, what is in progress is stopped where that can be, the rest is collected."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import select

from prefect_video.ledger import Budget, Job, State
from prefect_video.ledger.tables import jobs_table
from prefect_video.pipeline.cancel import cancel, cancel_each
from prefect_video.pipeline.entry_points import run_project
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness


async def cancel_all(harness: RecoveryHarness) -> list[Job]:
    async with harness.session() as session:
        ended = await cancel_each(session, await session.ledger.jobs.unfinished())
    assert all(isinstance(job, Job) for job in ended)
    return [job for job in ended if isinstance(job, Job)]


async def test_a_reservation_is_released(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "claimed")
    for _ in range(2):
        await cancel_all(harness)
        assert (await harness.row()).state is State.RELEASED
    assert harness.paid == (0, 0)


async def test_a_generation_is_stopped_and_costs_nothing(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(), "submitted")
    (job,) = await cancel_all(harness)
    assert (job.state, job.actual_usd) == (State.CANCELLED, Decimal(0))
    async with harness.ledger() as ledger:
        (standing,) = await ledger.spend.budget_usage([Budget(scope="project")], project="film", account=job.account)
    assert (standing.committed_usd, standing.videos) == (0, 0)
    assert harness.paid == (1, 0)
    assert harness.emulator.usage()["cancelled"] == 1


async def test_a_generation_that_is_too_far_is_left_and_collected(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    harness.emulator.wait_until_idle()
    (job,) = await cancel_all(harness)
    assert job.state in (State.SUBMITTED, State.COMPLETED)
    assert [line.outcome for line in await harness.collect()] == ["stored"]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("limit", ["max_in_flight", "account_slots"])
async def test_a_run_whose_generation_is_cancelled_says_so(open_harness: OpenHarness, limit: str) -> None:
    harness = open_harness(**SLOW)
    sent = asyncio.Event()

    def observer(moment: SessionEvent, job: Job) -> None:
        if moment == "submitted":
            sent.set()

    # One slot: the second shot waits, reserved, while the first is being made.
    async with harness.session(observer=observer, **{limit: 1}) as session:
        run = asyncio.create_task(run_project(session, film(a_shot(1), a_shot(2))))
        await sent.wait()
        await cancel_all(harness)
        report = await run
    assert statuses(report) == ["cancelled", "cancelled"]
    assert "cancelled before it was sent" in str(report.shots[1].error)
    assert {row.state for row in await harness.rows()} == {State.CANCELLED, State.RELEASED}
    assert harness.paid == (1, 0)


async def test_what_was_cancelled_may_be_made_after_all(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(), "submitted")
    await cancel_all(harness)
    harness.emulator.change_speed(500)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (2, 1)


async def test_a_row_that_waits_for_the_accounts_slot_is_given_up(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(1), "submitted")
    claimed = asyncio.Event()

    def observer(moment: SessionEvent, job: Job) -> None:
        if moment == "claimed":
            claimed.set()

    run = asyncio.create_task(harness.run(a_shot(2), observer=observer, account_slots=1))
    await claimed.wait()
    async with harness.ledger() as ledger:
        (row,) = [row for row in await ledger.jobs.unfinished() if row.state is State.RESERVED]
        async with asyncio.timeout(60):
            while not await _waits_for_a_slot(harness, row.id):
                await asyncio.sleep(0.02)
    async with harness.session() as session:
        assert (await cancel(session, row.id)).state is State.RELEASED
    assert statuses(await run) == ["cancelled"]
    assert harness.emulator.usage()["submitted"] == 1


async def _waits_for_a_slot(harness: RecoveryHarness, job_id: str) -> bool:
    async with harness.ledger() as ledger, ledger._database.reading() as connection:
        found = await connection.execute(select(jobs_table.c.waiting_since).where(jobs_table.c.id == job_id))
        return found.scalar_one() is not None
