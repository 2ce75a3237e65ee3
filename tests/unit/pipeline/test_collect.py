"""Collecting what runs have left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
from sqlalchemy import update

from prefect_video.ledger import Job, State
from prefect_video.ledger.tables import jobs_table
from prefect_video.pipeline.collect import collect
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.session import Session, SessionEvent, SessionNames
from tests.support.recovery import RecoveryHarness, a_shot, collect_with, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness


@pytest.mark.parametrize("moment", ["before_send", "answered", "submitted", "completed", "downloading", "published"])
async def test_what_a_run_left_is_finished_without_a_payment(harness: RecoveryHarness, moment: SessionEvent) -> None:
    harness.emulator.add_fault(operation="submit", kind="delay", seconds=0.2)
    await harness.interrupt(a_shot(), moment)
    accepted = harness.paid
    assert accepted[0] <= 1
    outcomes = [line.outcome for line in await harness.collect(wait=True)]
    job = await harness.row()
    if job.state is State.RELEASED:
        assert outcomes == ["released: it was never sent"]
        assert harness.paid == (0, 0)
    else:
        assert outcomes == ["stored"]
        assert job.state is State.STORED
        assert harness.paid == (1, 1)
    history = await _history(harness)
    assert await harness.collect(wait=True) == []
    assert await _history(harness) == history
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_what_is_still_being_made_is_left(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(), "submitted")
    assert [line.outcome for line in await harness.collect()] == ["still being made"]
    job = await harness.row()
    assert (job.state, job.owner) == (State.SUBMITTED, None)
    harness.emulator.change_speed(500)
    assert [line.outcome for line in await harness.collect(wait=True)] == ["stored"]
    assert harness.paid == (1, 1)


async def test_what_waits_for_a_human_goes_on_waiting(open_harness: OpenHarness) -> None:
    harness = open_harness(listing="404")
    harness.emulator.add_fault(operation="submit", kind="error_after")
    assert statuses(await harness.run(a_shot())) == ["held"]
    (line,) = await harness.collect()
    assert line.outcome == "is held"
    assert line.job.hold_reason
    assert line.job == await harness.row()


async def test_a_failure_is_written_down(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(prompt="a cat [fail]"), "submitted")
    harness.emulator.wait_until_idle()
    assert [line.outcome for line in await harness.collect()] == ["ended without a video"]
    assert (await harness.row()).state is State.FAILED
    assert harness.paid == (1, 0)


async def test_a_provider_that_does_not_answer_is_asked_by_the_next_sweep(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    harness.emulator.wait_until_idle()
    harness.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    assert [line.outcome for line in await harness.collect()] == ["left for later"]
    harness.emulator.clear_faults()
    assert [line.outcome for line in await harness.collect()] == ["stored"]
    assert harness.paid == (1, 1)


async def test_an_account_that_cannot_be_opened_keeps_back_no_other(harness: RecoveryHarness) -> None:
    for number in (1, 2):
        await harness.interrupt(a_shot(number), "submitted")
    harness.emulator.wait_until_idle()
    broken = jobs_table.c.id == (await harness.rows())[0].id
    async with harness.session() as session:
        async with session.ledger._database.writing() as connection:
            await connection.execute(update(jobs_table).where(broken).values(credentials="broken"))

        @asynccontextmanager
        async def open_session(job: SessionNames) -> AsyncIterator[Session]:
            if job.credentials == "broken":
                raise RuntimeError("the vault is closed")
            yield session

        swept = await collect(session.ledger, open_session)
    assert sorted((line.outcome, line.error) for line in swept if line.error) == [("left", "the vault is closed")]
    assert [row.state for row in await harness.rows()] == [State.SUBMITTED, State.STORED]


@pytest.mark.parametrize("shared", [True, False], ids=["in the same process", "in another one"])
async def test_beside_a_live_run_nothing_that_it_works_on_is_touched(open_harness: OpenHarness, shared: bool) -> None:
    harness = open_harness(**SLOW)
    at_work = asyncio.Event()

    def observer(moment: SessionEvent, job: Job) -> None:
        if moment == "submitted":
            at_work.set()

    async with harness.session(observer=observer) as session:
        run: asyncio.Task[ProjectReport] = asyncio.create_task(run_project(session, film(a_shot(1), a_shot(2))))
        await at_work.wait()
        swept = await (collect_with(session) if shared else harness.collect())
        assert {line.outcome for line in swept} == {"a live owner is working on it"}
        harness.emulator.change_speed(500)
        assert statuses(await run) == ["stored", "stored"]
    assert harness.paid == (2, 2)


async def _history(harness: RecoveryHarness) -> list[str]:
    async with harness.ledger() as ledger:
        return [f"{step.to_state} {step.detail}" for step in await ledger.jobs.history((await harness.rows())[0].id)]


async def test_what_is_left_for_later_twice_is_listed_with_its_reason(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    harness.emulator.wait_until_idle()
    harness.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    for listed in (0, 1):
        assert [line.outcome for line in await harness.collect()] == ["left for later"]
        async with harness.ledger() as ledger:
            jobs = await ledger.jobs.find(needs_attention=True)
        assert len(jobs) == listed
    assert (jobs[0].left_count, jobs[0].hold_reason) == (2, None)
    assert "The server had an error" in str(jobs[0].left_reason)
    harness.emulator.clear_faults()
    assert [line.outcome for line in await harness.collect()] == ["stored"]
    assert ((await harness.row()).left_count, (await harness.row()).left_reason) == (0, None)
    assert harness.paid == (1, 1)


async def test_a_job_whose_account_cannot_be_opened_is_listed_too(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")

    def open_session(job: Job) -> NoReturn:
        raise RuntimeError("the vault is closed")

    async with harness.ledger() as ledger:
        for _ in range(2):
            await collect(ledger, open_session)
        (job,) = await ledger.jobs.find(needs_attention=True)
    assert (job.left_count, job.left_reason) == (2, "the vault is closed")
