"""Slots of an account across owners, and the breaker that they share; on both databases."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError

from prefect_video.errors import InvalidTransition, LedgerError
from prefect_video.ledger import Ledger, State
from prefect_video.ledger import account_limits as module
from prefect_video.ledger import account_limits as priorities
from prefect_video.ledger.tables import jobs_table
from tests.support.records import a_generation, claim_one

ACCOUNT = "sora-1"


async def take(ledger: Ledger, number: int, *, slots: int | None = 1, **changes: Any) -> tuple[str, bool]:
    job = await claim_one(ledger, number, **changes)
    return job.id, await ledger.accounts.acquire_slot(job.id, slots=slots) is not None


async def test_a_slot_is_held_until_the_remote_job_ends(ledger: Ledger) -> None:
    first, taken = await take(ledger, 1)
    assert taken
    second, taken = await take(ledger, 2)
    assert not taken
    await ledger.jobs.record_submitted(first, a_generation("gen-1"))
    assert await ledger.accounts.acquire_slot(second, slots=1) is None
    assert (await ledger.accounts.status(ACCOUNT, slots=1)).occupied == 1
    await ledger.jobs.record_completed(first, a_generation("gen-1"))
    assert await ledger.accounts.acquire_slot(second, slots=1) is not None


async def test_owners_share_the_account_and_others_do_not(ledger: Ledger, other: Ledger) -> None:
    assert (await take(ledger, 1))[1]
    assert not (await take(other, 2))[1]
    assert (await take(other, 3, account="sora-2"))[1]


async def test_two_owners_never_take_the_last_slot_together(ledger: Ledger, other: Ledger) -> None:
    jobs = [(owner, await claim_one(owner, n)) for n, owner in enumerate([ledger, other] * 5)]
    took = await asyncio.gather(*(owner.accounts.acquire_slot(job.id, slots=3) for owner, job in jobs))
    # Those that came first while others were not yet queued are three, and never four.
    assert sum(job is not None for job in took) == 3
    assert (await ledger.accounts.status(ACCOUNT)).occupied == 3


async def test_the_queue_is_by_priority_then_by_time(ledger: Ledger, other: Ledger) -> None:
    holder, _ = await take(ledger, 1)
    low, _ = await take(ledger, 2, priority="low")
    first, _ = await take(ledger, 3)
    second, _ = await take(other, 4)
    high, _ = await take(other, 5, priority="high")
    await ledger.jobs.release_reservation(holder, "done")
    order = []
    # Each process asks for its own in their order.
    waiting = {first: ledger, low: ledger, high: other, second: other}
    while waiting:
        for job_id, owner in list(waiting.items()):
            if await owner.accounts.acquire_slot(job_id, slots=1):
                order.append(job_id)
                del waiting[job_id]
                await owner.jobs.release_reservation(job_id, "done")
    assert order == [high, first, second, low]


async def test_a_row_that_its_process_does_not_ask_for_holds_none_of_it_up(ledger: Ledger, other: Ledger) -> None:
    """The refusals of one process may reach its shots in another order than the ledger has."""
    holder, _ = await take(ledger, 1)
    await take(ledger, 2)
    elsewhere, _ = await take(other, 3)
    head, _ = await take(ledger, 4)
    await ledger.jobs.release_reservation(holder, "done")
    # The process has waited longer, with its first row.
    assert await other.accounts.acquire_slot(elsewhere, slots=1) is None
    assert await ledger.accounts.acquire_slot(head, slots=1) is not None


async def test_a_row_that_was_taken_over_waits_again_only_once_it_is_asked_for(ledger: Ledger, other: Ledger) -> None:
    """Its new process may have no slot of its own for it for hours, and holds up no other one meanwhile."""
    holder, _ = await take(ledger, 1)
    first, _ = await take(ledger, 2)
    later, _ = await take(other, 3)
    await ledger.claims.release_ownership([first])
    assert await other.claims.take_over(first)
    new, _ = await take(ledger, 4)
    await ledger.jobs.release_reservation(holder, "done")
    # Of the other process `later` waits, and not `first`.
    assert await ledger.accounts.acquire_slot(new, slots=2) is not None
    assert await other.accounts.acquire_slot(later, slots=2) is not None


async def test_a_row_that_gave_up_waiting_holds_no_other_up(ledger: Ledger, other: Ledger) -> None:
    holder, _ = await take(ledger, 1)
    impatient, _ = await take(other, 2)
    patient, _ = await take(ledger, 3)
    await ledger.jobs.release_reservation(holder, "done")
    assert await ledger.accounts.acquire_slot(patient, slots=1) is None
    await other.accounts.leave_slot_queue(impatient)
    assert await ledger.accounts.acquire_slot(patient, slots=1) is not None


async def test_the_dead_are_passed_over_in_the_queue(ledger: Ledger, other: Ledger) -> None:
    holder, _ = await take(ledger, 1)
    await take(other, 2)
    patient, _ = await take(ledger, 3)
    await ledger.jobs.release_reservation(holder, "done")
    await other.aclose()
    assert await ledger.accounts.acquire_slot(patient, slots=1) is not None


async def test_a_caller_that_is_cancelled_during_the_commit_leaves_no_row_that_seems_to_be_sent(ledger: Ledger) -> None:
    job = await claim_one(ledger, 1)
    loop, is_cancelled = asyncio.get_running_loop(), threading.Event()

    def cancel() -> None:
        taking.cancel()
        is_cancelled.set()

    def cancel_and_commit(_connection: object) -> None:
        loop.call_soon_threadsafe(cancel)
        if ledger._database.is_sqlite:  # whose transactions run in a thread of their own
            is_cancelled.wait(10)

    engine = ledger._database.engine.sync_engine
    event.listen(engine, "commit", cancel_and_commit, once=True)
    taking = asyncio.create_task(ledger.accounts.acquire_slot(job.id, slots=1))
    await asyncio.wait([taking])
    assert taking.cancelled()
    assert (await ledger.jobs.get(job.id)).state is State.RESERVED
    assert await ledger.accounts.acquire_slot(job.id, slots=1) is not None


async def test_a_use_of_a_key_whose_commit_fails_is_recorded_with_the_next(ledger: Ledger) -> None:
    job = await claim_one(ledger, 1)

    def fail(_connection: object) -> None:
        raise OperationalError("COMMIT", None, OSError("disk I/O error"))

    event.listen(ledger._database.engine.sync_engine, "commit", fail, once=True)
    with pytest.raises(LedgerError, match="disk I/O error"):
        await ledger.accounts.acquire_slot(job.id, slots=1, key_fingerprint="key")
    assert await ledger.keys.uses(job.account) == []
    assert await ledger.accounts.acquire_slot(job.id, slots=1, key_fingerprint="key")
    (use,) = await ledger.keys.uses(job.account)
    assert use == ledger.keys.last_noted(job.account, "key")


async def test_what_waits_for_a_human_or_is_past_its_deadline_holds_no_slot(ledger: Ledger) -> None:
    held, _ = await take(ledger, 1)
    await ledger.jobs.record_unknown(held, "no answer")
    second, taken = await take(ledger, 2)
    assert not taken
    await ledger.jobs.hold(held, "look at the console")
    assert (
        await ledger.accounts.acquire_slot(second, slots=1, deadline_at=datetime.now(UTC) - timedelta(seconds=1))
        is not None
    )
    assert (await take(ledger, 3))[1]


async def test_only_the_owner_takes_a_slot_and_only_once(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger, 1)
    with pytest.raises(InvalidTransition):
        await other.accounts.acquire_slot(job.id, slots=1)
    taken = await ledger.accounts.acquire_slot(job.id, slots=1)
    assert taken is not None
    assert taken.state is State.SUBMITTING
    with pytest.raises(InvalidTransition):
        await ledger.accounts.acquire_slot(job.id, slots=1)


async def test_a_429_halves_the_slots_once_and_they_creep_up(
    ledger: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        assert (await take(ledger, number, slots=8))[1]
    assert await ledger.accounts.reduce_slots(ACCOUNT) == 4
    assert await other.accounts.reduce_slots(ACCOUNT) == 4
    assert (await other.accounts.status(ACCOUNT, slots=8)).slots == 4
    monkeypatch.setattr(module, "SLOT_RECOVERY_SECONDS", 1e-6)
    assert (await ledger.accounts.status(ACCOUNT, slots=8)).slots == 8


async def test_the_breaker_opens_for_all_lets_one_try_and_closes(ledger: Ledger, other: Ledger) -> None:
    for _ in range(2):
        assert (await ledger.accounts.record_failure(ACCOUNT, threshold=3, open_seconds=60)).breaker == "closed"
    await ledger.accounts.record_success(ACCOUNT)
    for _ in range(3):
        await ledger.accounts.record_failure(ACCOUNT, threshold=3, open_seconds=60)
    assert (await other.accounts.status(ACCOUNT)).breaker == "open"
    assert not await other.accounts.try_half_open(ACCOUNT)
    await ledger.accounts.record_success(ACCOUNT)
    for _ in range(3):
        await ledger.accounts.record_failure(ACCOUNT, threshold=3, open_seconds=0)
    assert (await other.accounts.status(ACCOUNT)).breaker == "half_open"
    probes = await asyncio.gather(*(owner.accounts.try_half_open(ACCOUNT) for owner in (ledger, other, ledger, other)))
    assert sum(probes) == 1
    await other.accounts.record_failure(ACCOUNT, threshold=3, open_seconds=60)
    assert (await ledger.accounts.status(ACCOUNT)).breaker == "open"
    await other.accounts.record_success(ACCOUNT)
    assert (await ledger.accounts.status(ACCOUNT)).breaker == "closed"
    assert await ledger.accounts.try_half_open(ACCOUNT)


async def test_a_used_up_quota_is_remembered_until_it_is_new(ledger: Ledger, other: Ledger) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    await ledger.accounts.record_quota(ACCOUNT, until)
    assert (await other.accounts.status(ACCOUNT)).quota_until == until
    await ledger.accounts.record_quota(ACCOUNT, datetime.now(UTC) - timedelta(seconds=1))
    assert (await other.accounts.status(ACCOUNT)).quota_until is None


async def test_a_429_holds_where_no_plan_says_how_many(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        assert (await take(ledger, number, slots=None))[1]
    assert await ledger.accounts.reduce_slots(ACCOUNT) == 2
    turned_away, taken = await take(ledger, 5, slots=None)
    assert not taken
    monkeypatch.setattr(module, "SLOT_RECOVERY_SECONDS", 1e-6)
    assert await ledger.accounts.acquire_slot(turned_away, slots=None) is not None


async def test_one_past_its_deadline_holds_its_slot_for_as_long_again(ledger: Ledger) -> None:
    late = await claim_one(ledger, 1)
    now = datetime.now(UTC)
    await ledger.accounts.acquire_slot(late.id, slots=1, deadline_at=now + timedelta(hours=1))
    await ledger.jobs.record_submitted(late.id, a_generation("gen-1"))
    await ledger.jobs.hold(late.id, "look at the console")
    assert (await ledger.accounts.status(ACCOUNT)).occupied == 1, "whatever a human decides, the provider works on"
    await ledger.jobs.unhold(late.id)
    for overdue, occupied in ((timedelta(minutes=59), 1), (timedelta(minutes=61), 0)):
        async with ledger._database.writing() as connection:
            values = {"sent_at": now - overdue - timedelta(hours=1), "deadline_at": now - overdue}
            await connection.execute(update(jobs_table).where(jobs_table.c.id == late.id).values(**values))
        assert (await ledger.accounts.status(ACCOUNT)).occupied == occupied


async def test_a_deadline_that_passes_during_the_decision_counts_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = datetime.now(UTC) + timedelta(seconds=1)
    looks = iter(range(1, 1_000_000))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return began + timedelta(milliseconds=next(looks))

    ids = [(await claim_one(ledger, number)).id for number in range(3)]
    # One was late so long ago that it is not counted any more; the other's deadline is between two looks at the clock.
    hour = timedelta(hours=1)
    times = [(began - 9 * hour, began - 5 * hour), (began - hour, began + timedelta(milliseconds=1.5))]
    async with ledger._database.writing() as connection:
        for job_id, (sent_at, deadline_at) in zip(ids, times, strict=False):
            values = {"state": State.SUBMITTING, "sent_at": sent_at, "deadline_at": deadline_at}
            await connection.execute(update(jobs_table).where(jobs_table.c.id == job_id).values(**values))
    monkeypatch.setattr(module, "datetime", Clock)
    assert await ledger.accounts.acquire_slot(ids[2], slots=2) is not None


async def test_a_low_one_is_not_overtaken_indefinitely(
    ledger: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priorities, "AGEING_SECONDS", 0.0)
    holder, _ = await take(ledger, 1)
    low, _ = await take(ledger, 2, priority="low")
    high, _ = await take(other, 3, priority="high")
    await ledger.jobs.release_reservation(holder, "done")
    assert await other.accounts.acquire_slot(high, slots=1) is None
    assert await ledger.accounts.acquire_slot(low, slots=1) is not None


async def test_the_owner_that_opens_the_breaker_learns_it_once(ledger: Ledger, other: Ledger) -> None:
    statuses = [
        await owner.accounts.record_failure(ACCOUNT, threshold=2, open_seconds=60) for owner in (ledger, other, ledger)
    ]
    assert [status.just_opened for status in statuses] == [False, True, False]
