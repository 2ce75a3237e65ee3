"""The limit of an account: what a 429 leaves of it, who waits for it and how."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_video.errors import QuotaExhausted
from prefect_video.generations import Generation
from prefect_video.ledger import Job, Ledger, State
from prefect_video.ledger import account_limits as accounts
from prefect_video.limits import StepRank, step_priority
from prefect_video.pipeline import StepRunner
from prefect_video.pipeline.entry_points import run_project
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Session, SessionEvent
from tests.support.records import claim_one
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness

ACCOUNT = "sora-1"


@asynccontextmanager
async def all_slots_taken(harness: RecoveryHarness, session: Session) -> AsyncIterator[None]:
    """Another process has the only slot, until the end of the block."""
    async with await Ledger.open(harness.ledger_url) as other:
        holder = await claim_one(other, account=session.provider.account.id)
        assert await other.accounts.acquire_slot(holder.id, slots=1)
        yield
        await other.jobs.release_reservation(holder.id, "done")


async def until_queued(harness: RecoveryHarness, count: int = 1) -> None:
    """Until so many rows wait for a slot."""
    with closing(sqlite3.connect(harness.folder / "ledger.db")) as database:
        async with asyncio.timeout(60):
            while database.execute("SELECT count(waiting_since) FROM jobs").fetchone() != (count,):
                await asyncio.sleep(0.01)


class Requests:
    """Requests for slots: how many were answered, and how many were waiting for their answer when each was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answered = self._waiting = 0
        self.at_once: list[int] = []
        acquire_slot = accounts.AccountLimits.acquire_slot

        async def count_and_acquire(limits: Any, job_id: str, **options: Any) -> Any:
            self._waiting += 1
            self.at_once.append(self._waiting)
            try:
                return await acquire_slot(limits, job_id, **options)
            finally:
                self._waiting -= 1
                self.answered += 1

        monkeypatch.setattr(accounts.AccountLimits, "acquire_slot", count_and_acquire)


async def test_shots_ask_for_slots_together_until_there_is_none(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = 8
    async with harness.session() as session:
        requests = Requests(monkeypatch)
        assert statuses(await run_project(session, film(*map(a_shot, range(shots))))) == ["stored"] * shots
        assert max(requests.at_once) > 2
        assert requests.answered == shots

        # A 429 has left one slot, and another process has it: the first in the queue asks for all.
        await session.ledger.accounts.reduce_slots(session.provider.account.id, slots=2)
        async with all_slots_taken(harness, session):
            requests.answered = 0
            run = asyncio.create_task(run_project(session, film(*map(a_shot, range(shots, 2 * shots)), name="more")))
            async with asyncio.timeout(60):
                while requests.answered < shots + 4:
                    await asyncio.sleep(0.01)
            assert set(requests.at_once[-3:]) == {1}
        assert statuses(await run) == ["stored"] * shots
    assert harness.emulator.usage()["submitted"] == 2 * shots


async def test_a_429_halves_a_known_limit_however_few_are_in_progress(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await ledger.accounts.acquire_slot(job.id, slots=10)
    assert await ledger.accounts.reduce_slots(ACCOUNT, slots=10) == 5


async def test_a_429_halves_what_an_earlier_one_has_grown_to(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_ONE_429_SECONDS", 0.0)
    assert [await ledger.accounts.reduce_slots(ACCOUNT, slots=8) for _ in range(3)] == [4, 2, 1]
    monkeypatch.setattr(accounts, "SLOT_RECOVERY_SECONDS", 1e-6)
    assert await ledger.accounts.reduce_slots(ACCOUNT, slots=8) == 4


async def test_an_open_breaker_is_waited_for_until_one_may_try(harness: RecoveryHarness) -> None:
    async with harness.session() as session:
        standing = await session.ledger.accounts.record_failure(
            session.provider.account.id, threshold=1, open_seconds=0.7
        )
        report = await run_project(session, film(a_shot(1), a_shot(2), a_shot(3)))
        assert statuses(report) == ["stored"] * 3
        assert (await session.ledger.accounts.status(session.provider.account.id)).breaker == "closed"
    sent = [job.sent_at for job in await harness.rows()]
    assert standing.open_until is not None
    assert min(moment for moment in sent if moment) >= standing.open_until
    assert harness.emulator.usage()["submitted"] == 3


async def test_or_fails_at_once_by_choice(harness: RecoveryHarness) -> None:
    async with harness.session(on_open="fail") as session:
        await session.ledger.accounts.record_failure(session.provider.account.id, threshold=1, open_seconds=60)
        report = await run_project(session, film(a_shot(1), a_shot(2)))
        assert statuses(report) == ["failed"] * 2
        assert "in trouble" in str(report.shots[0].error)
        assert await session.ledger.jobs.unfinished() == []
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_breaker_that_opens_meanwhile_holds_back_those_in_the_queue(harness: RecoveryHarness) -> None:
    async with harness.session(on_open="fail", account_slots=1) as session, all_slots_taken(harness, session):
        run = asyncio.create_task(run_project(session, film(a_shot())))
        await until_queued(harness)
        await session.ledger.accounts.record_failure(session.provider.account.id, threshold=1, open_seconds=60)
        async with asyncio.timeout(60):
            assert statuses(await run) == ["failed"]
    assert harness.emulator.usage()["submitted"] == 0


async def test_a_try_that_is_cancelled_in_the_queue_is_left_to_others(harness: RecoveryHarness) -> None:
    async with harness.session(account_slots=1) as session, all_slots_taken(harness, session):
        account = session.provider.account.id
        await session.ledger.accounts.record_failure(account, threshold=1, open_seconds=0)
        run = asyncio.create_task(run_project(session, film(a_shot())))
        await until_queued(harness)
        assert not await session.ledger.accounts.try_half_open(account)
        run.cancel()
        await asyncio.wait([run])
        assert await session.ledger.accounts.try_half_open(account)


async def test_time_in_the_queue_is_not_time_turned_away(harness: RecoveryHarness) -> None:
    patience = 1.2
    harness.emulator.add_fault(operation="submit", kind="rate_limited", retry_after=0.1)
    async with harness.session(account_slots=1, submit_patience_seconds=patience) as session:
        async with all_slots_taken(harness, session):
            run = asyncio.create_task(run_project(session, film(a_shot())))
            await until_queued(harness)
            await asyncio.sleep(patience)
        assert statuses(await run) == ["stored"]
    assert harness.emulator.usage()["submitted"] == 2


async def test_a_high_priority_project_overtakes_a_low_one_that_waits(harness: RecoveryHarness) -> None:
    low = film(a_shot(1), a_shot(2), name="low", priority="low")
    high = film(a_shot(9), name="high", priority="high")
    async with harness.session(account_slots=1) as first, harness.session(account_slots=1) as second:
        async with all_slots_taken(harness, first):
            runs = [asyncio.create_task(run_project(first, low))]
            await until_queued(harness)
            runs.append(asyncio.create_task(run_project(second, high)))
            await until_queued(harness, count=2)
        assert [set(statuses(report)) for report in await asyncio.gather(*runs)] == [{"stored"}] * 2
    jobs = [job for job in await harness.rows() if job.state is State.STORED]
    jobs.sort(key=lambda job: job.sent_at or datetime.now(UTC))
    assert [job.project for job in jobs] == ["high", "low", "low"]
    assert harness.emulator.usage()["peak_concurrency"] == 1


async def test_it_overtakes_within_one_process_too(harness: RecoveryHarness) -> None:
    low = film(a_shot(1), a_shot(2), a_shot(3), name="low", priority="low")
    high = film(a_shot(9), name="high", priority="high")
    async with harness.session(account_slots=1) as session:
        async with session.in_flight_slots.acquire(1), asyncio.timeout(60):
            runs = [asyncio.create_task(run_project(session, low))]
            while len(session.in_flight_slots._waiting) < 3:
                await asyncio.sleep(0.01)
            runs.append(asyncio.create_task(run_project(session, high)))
            while len(session.in_flight_slots._waiting) < 4:
                await asyncio.sleep(0.01)
        await asyncio.gather(*runs)
    jobs = sorted(await harness.rows(), key=lambda job: job.sent_at or datetime.now(UTC))
    assert [job.project for job in jobs] == ["high", "low", "low", "low"]


async def test_a_shot_that_is_given_a_slot_goes_before_the_one_that_frees_it_and_waits_for_no_other(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_priority, "_LIMIT_SECONDS", 60.0)
    order = list[str]()
    async with harness.session(max_in_flight=1) as session:
        account, urgent = session.provider.account.id, session.step_priority
        first, second, third = [await claim_one(session.ledger, number, account=account) for number in range(3)]

        async def submit(job: Job, name: str) -> None:
            async with session.in_flight_slot(job):
                order.append(f"{name} prepared")
                await session.take_slot(job)
                # The start of its task, for example.
                await asyncio.sleep(0.01)
                order.append(f"{name} sent")
                urgent.end_urgent(job.id)

        async def end(job: Job) -> None:
            urgent.begin_urgent(job.id)
            session.notify(SessionEvent.COMPLETED, job)
            urgent.end_urgent(job.id)
            await urgent.yield_to_urgent(StepRank.POLL)
            order.append("poll returned")

        async with session.in_flight_slot(first):
            urgent.end_urgent(first.id)
            waiting = [asyncio.create_task(submit(second, "second"))]
            while not order:
                await asyncio.sleep(0.001)
            urgent.begin_urgent("another")
            waiting.append(asyncio.create_task(submit(third, "third")))
            await asyncio.sleep(0.01)
            ending = asyncio.create_task(end(first))
            async with asyncio.timeout(30):
                await asyncio.gather(*waiting)
            urgent.end_urgent("another")
            await ending
    assert order == ["second prepared", "second sent", "third prepared", "third sent", "poll returned"]


class LimitedSteps(StepRunner):
    """Runs one step at a time, as an orchestrator does that limits them."""

    def __init__(self) -> None:
        self._limit = asyncio.Semaphore(1)

    def has_limit(self, session: Session) -> bool:
        return True

    async def run_step(self, step: Any, session: Session, *inputs: Any, **named: Any) -> Any:
        async with self._limit:
            return await step(session, *inputs, **named)


async def test_a_limit_of_steps_at_once_is_not_used_up_by_those_that_wait_for_a_slot(harness: RecoveryHarness) -> None:
    async with harness.session(max_in_flight=1) as session, asyncio.timeout(60):
        report = await run_project(session, film(*map(a_shot, range(4))), runner=LimitedSteps())
    assert statuses(report) == ["stored"] * 4
    assert harness.emulator.usage()["submitted"] == 4


async def test_a_job_at_the_provider_waits_for_no_slot_of_a_shot_that_waits_for_its_own(
    open_harness: OpenHarness,
) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(1), SessionEvent.SUBMITTED, max_in_flight=1, account_slots=1)
    harness.emulator.change_speed(500)
    async with asyncio.timeout(20):
        report = await harness.run(film(a_shot(2), a_shot(1)), max_in_flight=1, account_slots=1)
    assert statuses(report) == ["stored"] * 2
    usage = harness.emulator.usage()
    assert (usage["submitted"], usage["peak_concurrency"]) == (2, 1)


async def test_a_used_up_quota_is_reported_and_not_requested_again(open_harness: OpenHarness) -> None:
    harness = open_harness(monthly_quota=1)
    await harness.run(a_shot(1))
    report = await harness.run(a_shot(2))
    assert "quota" in str(report.shots[0].error)
    assert harness.emulator.usage()["submitted"] == 2
    later = await harness.run(film(*(a_shot(number) for number in range(3, 9))))
    assert all("quota is used up until" in str(shot.error) for shot in later.shots)
    assert harness.emulator.usage()["submitted"] == 2
    assert [job.state for job in await harness.rows()].count(State.RELEASED) == 7


class Undated(SoraProvider):
    """Does not say until when a quota is used up."""

    async def submit(self, *shot: Any, **how: Any) -> Generation:
        try:
            return await super().submit(*shot, **how)
        except QuotaExhausted as error:
            error.retry_after = None
            raise


async def test_a_quota_without_a_date_costs_one_submit_a_run(open_harness: OpenHarness) -> None:
    harness = open_harness(monthly_quota=0)
    project = film(*(a_shot(number) for number in range(5)))
    for run in (1, 2):
        report = await harness.run(project, kind=Undated, max_in_flight=1)
        assert all("quota" in str(shot.error) for shot in report.shots)
        assert harness.emulator.usage()["submitted"] == run
