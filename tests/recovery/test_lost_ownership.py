"""A process that is paused while it sends, and is taken for dead by another one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from prefect_video.errors import InvalidTransition
from prefect_video.ledger import Budget, Job, JobRequest, Ledger, State, tables
from prefect_video.ledger import leases as owners
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.pipeline.steps.submit import submit
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Session
from tests.support.records import begin_submit, claim_one
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every owner is on another machine, as far as its lock file tells."""
    monkeypatch.setattr(owners, "_lock_held", lambda owner_id: None)


async def test_what_is_accepted_for_a_row_that_others_have_carried_on_is_cancelled(
    open_harness: OpenHarness, elsewhere: None
) -> None:
    harness = open_harness(**SLOW)
    job = await overtaken(harness)
    harness.emulator.change_speed(500)
    jobs = {other.id: other for other in await harness.rows()}
    (stray,) = (other for other in jobs.values() if other.id != job.id)
    assert (jobs[job.id].state, stray.state, stray.hold_reason) == (State.SUBMITTED, State.CANCELLED, None)
    assert stray.generation_id not in (None, jobs[job.id].generation_id)
    assert harness.paid == (2, 1)
    async with harness.ledger() as ledger:
        (standing,) = await ledger.spend.budget_usage([Budget(scope="project")], project="film", account=stray.account)
        assert standing.videos == 1


async def test_what_can_no_longer_be_cancelled_is_held_with_its_id(open_harness: OpenHarness, elsewhere: None) -> None:
    harness = open_harness(**SLOW)
    harness.emulator.add_fault(operation="cancel", kind="error_before", times=None)
    job = await overtaken(harness)
    (stray,) = (row for row in await harness.rows() if row.id != job.id)
    assert stray.state is State.LOST
    assert f"resolve {stray.id} --generation {stray.generation_id}" in str(stray.hold_reason)
    async with harness.ledger() as ledger:
        assert [step.to_state for step in await ledger.jobs.history(stray.id)] == [State.LOST]


async def overtaken(harness: RecoveryHarness) -> Job:
    """The row of a submit that was answered after another owner had found nothing and sent it again."""
    sending = asyncio.Event()
    go_on = asyncio.Event()

    class Paused(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Any:
            sending.set()
            await go_on.wait()
            return await super().submit(*shot, **options)

    async with harness.session(kind=Paused, settle_seconds=60) as paused, harness.session() as other:
        (claim,) = (await paused.ledger.claims.claim([await a_request_of(paused)])).claims
        assert claim.job is not None
        first = asyncio.create_task(submit(paused, claim.job))
        await sending.wait()
        await sign_off(paused)
        assert await other.ledger.claims.take_over(claim.job.id)
        await submit(other, claim.job)
        go_on.set()
        return await first


async def a_request_of(session: Session) -> JobRequest:
    (job_request,) = await build_project_job_requests(session, film(a_shot()))
    return job_request


async def sign_off(session: Session) -> None:
    """Lets an owner look dead to others."""
    ledger = session.ledger
    assert ledger._owner._beating is not None
    ledger._owner._beating.cancel()
    async with ledger._database.writing() as connection:
        await connection.execute(delete(tables.owners).where(tables.owners.c.id == ledger.owner_id))


async def test_a_pause_before_the_request_is_noticed(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is looked at again before it is sent: here it is still ours."""
    real = Ledger.now
    times = [timedelta(minutes=5), timedelta(0)]

    async def paused(ledger: Ledger) -> Any:
        return await real(ledger) + (times.pop(0) if times else timedelta(0))

    monkeypatch.setattr(Ledger, "now", paused)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    job = await harness.row()
    async with harness.ledger() as ledger:
        assert [step.detail for step in await ledger.jobs.history(job.id)].count("about to be sent after a pause") == 1


async def test_a_run_that_is_cancelled_between_slot_and_request_leaves_a_reservation(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, so that there is nothing to reconcile: another run sends the job at once."""
    has_slot = asyncio.Event()

    async def wait(ledger: Ledger) -> Any:
        has_slot.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "now", wait)
        run = asyncio.create_task(harness.run(a_shot()))
        await has_slot.wait()
        assert (await harness.row()).state is State.SUBMITTING
        run.cancel()
        await asyncio.wait([run])
    assert run.cancelled()
    assert (await harness.row()).state is State.RESERVED
    assert harness.paid == (0, 0)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    async with harness.ledger() as ledger:
        states = {step.to_state for step in await ledger.jobs.history((await harness.row()).id)}
    assert State.UNKNOWN not in states
    assert harness.paid == (1, 1)


async def test_a_row_that_was_taken_over_in_a_pause_is_not_sent(harness: RecoveryHarness, elsewhere: None) -> None:
    async with harness.session() as paused, harness.session() as other:
        (claim,) = (await paused.ledger.claims.claim([await a_request_of(paused)])).claims
        assert claim.job is not None
        await begin_submit(paused.ledger, claim.job.id)
        await sign_off(paused)
        assert await other.ledger.claims.take_over(claim.job.id)
        with pytest.raises(InvalidTransition, match="belongs to"):
            await paused.ledger.jobs.refresh_submit(claim.job.id)


async def test_a_submit_ends_before_others_may_send_in_its_place(harness: RecoveryHarness) -> None:
    class Stuck(SoraProvider):
        async def submit(self, *shot: Any, **options: Any) -> Any:
            await asyncio.Event().wait()

    async with harness.session(kind=Stuck, settle_seconds=0, lease_seconds=0.05, submit_patience_seconds=0) as session:
        job = await claim_one(session.ledger, account=session.provider.account.id, provider="emulator")
        reconciling = asyncio.create_task(submit(session, job))
        await asyncio.wait([reconciling])
        history = await session.ledger.jobs.history(job.id)
    assert State.UNKNOWN in [step.to_state for step in history]
    assert harness.paid == (0, 0)
