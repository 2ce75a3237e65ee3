"""Runs that are stopped by a cancel scope, which cancels at every `await`, as Prefect's own timeouts do."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Job, State
from prefect_video.ledger.account_limits import AccountLimits
from prefect_video.ledger.jobs import Jobs
from prefect_video.limits import step_priority
from prefect_video.pipeline import StepRunner, steps
from prefect_video.session import SessionEvent
from tests.support.records import claim_one
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness


@pytest.mark.parametrize("moment", ["claimed", "before_send", "answered", "submitted", "completed"])
async def test_a_scope_that_is_cancelled_leaves_nothing_behind(harness: RecoveryHarness, moment: SessionEvent) -> None:
    scope = anyio.CancelScope()

    def observer(reported: SessionEvent, job: Job) -> None:
        if reported == moment:
            scope.cancel()

    with scope:
        await harness.run(film(a_shot(), a_shot(2)), observer=observer)
    assert scope.cancelled_caught
    jobs = await harness.rows()
    assert [job.owner for job in jobs] == [None, None]
    if moment == "answered":
        assert State.SUBMITTED in {job.state for job in jobs}
    report = await harness.run(film(a_shot(), a_shot(2)))
    assert statuses(report) == ["stored", "stored"]
    assert harness.paid == (2, 2)


async def test_an_answer_is_kept_ready_for_a_ledger_that_cannot_be_written(
    open_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = open_harness(listing="404")
    real = Jobs.record_submitted
    left = [LedgerUnavailable("the ledger is locked")] * 2

    async def locked(jobs: Jobs, *arguments: Any, **options: Any) -> Job:
        if left:
            raise left.pop()
        return await real(jobs, *arguments, **options)

    monkeypatch.setattr(Jobs, "record_submitted", locked)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert (await harness.row()).generation_id in caplog.text
    assert harness.paid == (1, 1)


async def test_an_answer_that_cannot_be_written_at_all_is_reported_with_its_id(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(jobs: Jobs, *arguments: Any, **options: Any) -> Job:
        raise LedgerUnavailable("the ledger is locked")

    monkeypatch.setattr("prefect_video.pipeline.steps.submit_result._KEEP_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Jobs, "record_submitted", locked)
        report = await harness.run(a_shot())
    job = await harness.row()
    assert f"prefect-video resolve {job.id} --generation gen_" in str(report.shots[0].error)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_the_answer_is_on_record_before_the_breaker_counts_it(
    open_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = open_harness(listing="404")
    noting = asyncio.Event()

    async def held_up(accounts: AccountLimits, *arguments: Any, **options: Any) -> bool:
        noting.set()
        return False

    # A success is recorded only where it changes something.
    async with harness.session() as session:
        await session.ledger.accounts.record_failure(session.provider.account.id, threshold=5, open_seconds=60)
    monkeypatch.setattr(AccountLimits, "record_success", held_up)
    run = asyncio.create_task(harness.run(a_shot()))
    await noting.wait()
    assert (await harness.row()).generation_id is not None
    assert statuses(await run) == ["stored"]


async def test_a_freed_slot_is_filled_before_the_poll_returns_and_anything_is_downloaded(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: otherwise a step waits for a second at most.
    monkeypatch.setattr(step_priority, "_LIMIT_SECONDS", 60.0)
    events: list[str] = []
    run_step = StepRunner.run_step
    watched = (SessionEvent.COMPLETED, SessionEvent.BEFORE_SEND, SessionEvent.DOWNLOADING)

    def observer(reported: SessionEvent, job: Job) -> None:
        if reported in watched:
            events.append(reported)

    async def run_and_note(runner: StepRunner, step: Any, *inputs: Any, **named: Any) -> Any:
        result = await run_step(runner, step, *inputs, **named)
        if step is steps.poll:
            # From here on, an orchestrator records the end of its task.
            events.append("returned")
        return result

    monkeypatch.setattr(StepRunner, "run_step", run_and_note)
    report = await harness.run(
        film(*(a_shot(number) for number in range(8))), observer=observer, max_in_flight=2, downloads_at_once=8
    )
    assert statuses(report) == ["stored"] * 8
    sent = [number for number, event in enumerate(events) if event == SessionEvent.BEFORE_SEND]
    assert len(sent) == 8
    for number, event in enumerate(events[: sent[-1]]):
        if event == SessionEvent.COMPLETED:
            following = next(later for later in events[number + 1 :] if later != SessionEvent.COMPLETED)
            assert following is SessionEvent.BEFORE_SEND, " ".join(events)


async def test_a_job_that_is_taken_up_again_while_its_first_run_leaves_keeps_a_slot_of_its_own(
    harness: RecoveryHarness,
) -> None:
    """A deferred run gives the job up, and then waits for Prefect to free its limit."""
    async with harness.session(max_in_flight=2) as session:
        job, slots = await claim_one(session.ledger), session.in_flight_slots
        leaving, taken_up = session.in_flight_slot(job), session.in_flight_slot(job)
        await leaving.__aenter__()
        await taken_up.__aenter__()
        await leaving.__aexit__(None, None, None)
        assert slots._free == 1
        session.notify(SessionEvent.COMPLETED, job)
        assert slots._free == 2
        await taken_up.__aexit__(None, None, None)
        assert slots._free == 2
