"""The steps of one row, and the steps that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from prefect_video.errors import (
    ContentPolicyError,
    GenerationFailed,
    InvalidTransition,
    LedgerError,
    SubmitOutcomeUnknown,
)
from prefect_video.ledger import Job, Ledger, State
from prefect_video.ledger.jobs import Jobs
from tests.support.records import a_generation, a_result, an_asset, begin_submit, claim_one, store_one, submit_one

NOW = datetime.now(UTC)
UNANSWERED = SubmitOutcomeUnknown("no answer", provider="sora", request_id="req-9")
FAILED = GenerationFailed("it broke", provider="sora", generation_id="gen-1", request_id="req-1")


async def test_the_whole_way(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    deadline, expiry = NOW + timedelta(hours=1), NOW + timedelta(days=1)

    sending = await begin_submit(ledger, job.id, task_run_id="task-1", deadline_at=deadline)
    assert (sending.state, sending.task_run_id, sending.deadline_at) == (State.SUBMITTING, "task-1", deadline)
    assert sending.sent_at is not None

    sent = await ledger.jobs.record_submitted(job.id, a_generation(estimated_completion_at=deadline), detail="202")
    assert (sent.state, sent.generation_id, sent.estimated_completion_at) == (State.SUBMITTED, "gen-1", deadline)
    assert sent.submitted_at is not None

    ready = a_generation(result=a_result(expiry), cost_usd=Decimal("2.10"))
    done = await ledger.jobs.record_completed(job.id, ready)
    assert (done.state, done.expires_at, done.actual_usd) == (State.COMPLETED, expiry, Decimal("2.10"))

    asset = an_asset(job)
    stored = await ledger.jobs.record_stored(job.id, asset)
    assert (stored.state, stored.asset, stored.owner) == (State.STORED, asset, None)
    assert stored == await ledger.jobs.get(job.id)

    steps = await ledger.jobs.history(job.id)
    assert [step.to_state for step in steps] == ["reserved", "submitting", "submitted", "completed", "stored"]
    assert [step.from_state for step in steps] == [None, "reserved", "submitting", "submitted", "completed"]
    assert steps[2].detail == "202"


async def test_only_the_owner_sends(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    with pytest.raises(InvalidTransition, match="belongs to"):
        await begin_submit(other, job.id)
    await ledger.claims.release_ownership([job.id])
    with pytest.raises(InvalidTransition, match="belongs to no one"):
        await begin_submit(ledger, job.id)


async def test_nothing_is_sent_twice(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    with pytest.raises(InvalidTransition, match="is submitting and cannot become submitting"):
        await begin_submit(ledger, job.id)


async def test_an_unanswered_submit_is_found(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    unknown = await ledger.jobs.record_unknown(job.id, UNANSWERED)
    assert (unknown.state, unknown.error_type, unknown.request_id) == (State.UNKNOWN, "SubmitOutcomeUnknown", "req-9")
    assert await ledger.jobs.record_unknown(job.id, "again") == unknown
    found = await ledger.jobs.record_submitted(job.id, a_generation(), detail="found by list")
    assert (found.state, found.error_type, found.error_message) == (State.SUBMITTED, None, None)


@pytest.mark.parametrize("unknown", [False, True])
async def test_an_unanswered_submit_is_proven_absent(ledger: Ledger, unknown: bool) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    if unknown:
        await ledger.jobs.record_unknown(job.id, UNANSWERED)
    back = await ledger.jobs.return_to_reserved(job.id, "not in the list")
    assert (back.state, back.sent_at, back.error_type) == (State.RESERVED, None, None)
    assert (back.owner, back.reserved_usd) == (ledger.owner_id, job.reserved_usd)
    assert (await begin_submit(ledger, job.id)).state is State.SUBMITTING


@pytest.mark.parametrize("step", [Jobs.return_to_reserved, Jobs.release_reservation])
async def test_a_verdict_on_a_sent_request_needs_its_owner(
    ledger: Ledger, other: Ledger, step: Callable[[Jobs, str, str], Awaitable[Job]]
) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    with pytest.raises(InvalidTransition, match="take it over before"):
        await step(other.jobs, job.id, "late news")
    assert (await ledger.jobs.get(job.id)).state is State.SUBMITTING
    await ledger.jobs.hold(job.id, "a human must say")
    assert (await step(other.jobs, job.id, "a human says so")).hold_reason is None


async def test_it_is_known_since_when_an_outcome_is_unknown(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    sending = await begin_submit(ledger, job.id)
    unknown = await ledger.jobs.record_unknown(job.id, UNANSWERED)
    assert sending.unknown_at is None
    assert sending.sent_at is not None
    assert unknown.unknown_at is not None
    assert sending.sent_at <= unknown.unknown_at <= await ledger.now()
    assert (await ledger.jobs.record_unknown(job.id, "again")).unknown_at == unknown.unknown_at
    assert (await ledger.jobs.return_to_reserved(job.id, "absent")).unknown_at is None


async def test_a_submit_is_renewed_by_its_owner_only(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    with pytest.raises(InvalidTransition, match="is reserved"):
        await ledger.jobs.refresh_submit(job.id)
    sending = await begin_submit(ledger, job.id)
    renewed = await ledger.jobs.refresh_submit(job.id)
    assert renewed.sent_at is not None
    assert sending.sent_at is not None
    assert renewed.sent_at >= sending.sent_at
    with pytest.raises(InvalidTransition, match="belongs to"):
        await other.jobs.refresh_submit(job.id)


async def test_a_lost_generation_that_is_found_goes_on(ledger: Ledger) -> None:
    job = await submit_one(ledger)
    with pytest.raises(InvalidTransition, match="is submitted"):
        await ledger.jobs.record_found(job.id, a_generation("gen-1"))
    await ledger.jobs.record_ended(job.id, State.LOST, "not known", actual_usd=None, hold_reason="look")
    found = await ledger.jobs.record_found(job.id, a_generation("gen-1"), deadline_at=NOW)
    assert (found.state, found.hold_reason, found.deadline_at) == (State.SUBMITTED, None, NOW)
    assert (found.generation_id, found.error_message) == ("gen-1", None)


async def test_a_lost_generation_waits_for_what_was_bought_in_its_place(ledger: Ledger) -> None:
    lost = await submit_one(ledger)
    await ledger.jobs.record_ended(lost.id, State.LOST, "not known", actual_usd=None)
    other = await claim_one(ledger)
    with pytest.raises(InvalidTransition, match=f"while job {other.id} of the same video is in progress"):
        await ledger.jobs.record_found(lost.id, a_generation("gen-1"))


async def test_a_row_is_booked_under_another_account(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    assert await ledger.jobs.assign_account(job.id, account="sora-1", credentials="other") == job
    moved = await ledger.jobs.assign_account(job.id, account="sora-2", credentials="other")
    assert (moved.account, moved.credentials, moved.state) == ("sora-2", "other", State.RESERVED)
    assert "sora-2" in str((await ledger.jobs.history(job.id))[-1].detail)


async def test_a_stray_has_a_row_of_its_own(ledger: Ledger) -> None:
    job = await store_one(ledger)
    stray = job.model_copy(
        update={"id": "stray", "state": State.LOST, "generation_id": "gen-9", "asset": None, "hold_reason": "look"}
    )
    await ledger.jobs.record_orphan(stray, "no one owns it")
    kept = await ledger.jobs.get("stray")
    assert (kept.owner, kept.generation_id, kept.hold_reason) == (None, "gen-9", "look")
    with pytest.raises(InvalidTransition):
        await ledger.jobs.record_orphan(stray.model_copy(update={"id": "again"}), "twice")


async def test_a_reserved_row_may_be_released_by_anybody(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    released = await other.jobs.release_reservation(
        job.id, ContentPolicyError("not allowed", provider="sora", request_id="req-2")
    )
    assert (released.state, released.owner, released.error_type) == (State.RELEASED, None, "ContentPolicyError")
    assert (released.error_message, released.request_id) == ("not allowed", "req-2")
    assert released.reserved_usd == Decimal("2.40")
    assert await other.jobs.release_reservation(job.id, "again") == released
    with pytest.raises(InvalidTransition):
        await begin_submit(ledger, job.id)


async def test_recording_the_same_twice_does_nothing(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    generation, asset = a_generation(), an_asset(job)
    for _ in range(2):
        submitted = await ledger.jobs.record_submitted(job.id, generation)
    for _ in range(2):
        completed = await ledger.jobs.record_completed(job.id, generation)
    for _ in range(2):
        stored = await ledger.jobs.record_stored(job.id, asset)
    assert [row.state for row in (submitted, completed, stored)] == ["submitted", "completed", "stored"]
    assert await ledger.jobs.record_submitted(job.id, generation) == stored
    assert await ledger.jobs.record_completed(job.id, generation) == stored
    assert len(await ledger.jobs.history(job.id)) == 5


async def test_a_fresh_link_brings_its_expiry(ledger: Ledger) -> None:
    job = await submit_one(ledger)
    await ledger.jobs.record_completed(job.id, a_generation(result=a_result(NOW)))
    later = NOW + timedelta(days=1)
    again = await ledger.jobs.record_completed(job.id, a_generation(result=a_result(later), cost_usd=Decimal(3)))
    assert (again.expires_at, again.actual_usd) == (later, Decimal(3))
    assert len(await ledger.jobs.history(job.id)) == 4


async def test_a_generation_belongs_to_one_row(ledger: Ledger) -> None:
    first = await submit_one(ledger, 1)
    second = await claim_one(ledger, 2)
    await begin_submit(ledger, second.id)
    with pytest.raises(InvalidTransition, match=f"belongs to job {first.id}"):
        await ledger.jobs.record_submitted(second.id, a_generation("gen-1"))
    with pytest.raises(InvalidTransition, match="belongs to job"):
        await ledger.jobs.record_ended(second.id, State.FAILED, FAILED, actual_usd=None)
    with pytest.raises(InvalidTransition, match="belongs to generation gen-1, not to gen-2"):
        await ledger.jobs.record_completed(first.id, a_generation("gen-2"))
    assert (await ledger.jobs.get(second.id)).state is State.SUBMITTING


async def test_another_file_for_a_stored_row_is_refused(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    with pytest.raises(InvalidTransition, match="is stored"):
        await ledger.jobs.record_stored(stored.id, an_asset(stored, sha256="cd" * 32))


async def test_a_submit_that_failed_after_acceptance_keeps_its_id(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await begin_submit(ledger, job.id)
    failed = await ledger.jobs.record_ended(job.id, State.FAILED, FAILED, actual_usd=Decimal("0.5"))
    assert (failed.state, failed.generation_id, failed.request_id) == (State.FAILED, "gen-1", "req-1")
    assert (failed.actual_usd, failed.error_type) == (Decimal("0.5"), "GenerationFailed")
    assert set(await ledger.jobs.recorded_generations("sora-1")) == {"gen-1"}


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST])
async def test_every_end_without_a_video(ledger: Ledger, state: State) -> None:
    job = await submit_one(ledger)
    ended = await ledger.jobs.record_ended(job.id, state, "over", actual_usd=None)
    assert (ended.state, ended.owner, ended.actual_usd, ended.error_message) == (state, None, None, "over")
    assert await ledger.jobs.record_ended(job.id, state, "over again", actual_usd=Decimal(9)) == ended
    with pytest.raises(InvalidTransition):
        await ledger.jobs.record_completed(job.id, a_generation())


@pytest.mark.parametrize("state", [State.STORED, State.RELEASED, State.RESERVED])
async def test_an_end_is_an_end_without_a_video(ledger: Ledger, state: State) -> None:
    job = await submit_one(ledger)
    with pytest.raises(InvalidTransition, match="not an end without a video"):
        await ledger.jobs.record_ended(job.id, state, "over", actual_usd=None)


async def test_a_stored_file_can_only_go_missing(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    with pytest.raises(InvalidTransition):
        await ledger.jobs.record_ended(stored.id, State.LOST, "gone", actual_usd=None)
    lost = await ledger.jobs.record_missing(stored.id, "deleted by hand")
    assert (lost.state, lost.error_message) == (State.LOST, "deleted by hand")
    assert await ledger.jobs.record_missing(stored.id, "again") == lost
    open_row = await submit_one(ledger, 2)
    with pytest.raises(InvalidTransition):
        await ledger.jobs.record_missing(open_row.id, "no")


async def test_a_stored_row_whose_file_is_flawed_is_completed_again(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    reopened = await ledger.jobs.reopen_stored(stored.id, "its stored file was missing")
    assert (reopened.state, reopened.owner, reopened.is_reopened) == (State.COMPLETED, None, True)
    assert (reopened.asset, reopened.stored_at) == (stored.asset, stored.stored_at)
    assert await ledger.jobs.reopen_stored(stored.id, "again") == reopened
    assert stored.asset is not None
    again = await ledger.jobs.record_stored(stored.id, stored.asset, store_id="a store")
    # Its age is what it was: a time to live is that of the video, not of the file.
    assert (again.state, again.stored_at, again.store_id) == (State.STORED, stored.stored_at, "a store")

    await ledger.jobs.reopen_stored(stored.id, "its stored file was missing")
    lost = await ledger.jobs.record_missing(stored.id, "and the provider no longer has it")
    assert (lost.state, lost.hold_reason) == (State.LOST, None)
    with pytest.raises(InvalidTransition):
        await ledger.jobs.reopen_stored(lost.id, "too late")


async def test_all_who_ask_at_once_are_proposed_one_identity(ledger: Ledger, other: Ledger) -> None:
    proposed = await asyncio.gather(*(owner.stores.propose_store_id("s3://films") for owner in (ledger, other) * 5))
    assert len(set(proposed)) == 1
    await asyncio.gather(*(owner.stores.remember_store(proposed[0], "s3://films") for owner in (ledger, other) * 5))
    assert await ledger.stores.store_ids("s3://films") == set(proposed)
    assert await ledger.stores.store_ids("s3://other") == set()


async def test_flags_are_kept_until_the_row_moves(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    flagged = await ledger.jobs.hold(job.id, "look")
    assert flagged.hold_reason == "look"
    assert await ledger.jobs.hold(job.id, "look") == flagged
    assert (await ledger.jobs.unhold(job.id)).hold_reason is None
    assert (await ledger.jobs.unhold(job.id)).hold_reason is None
    await ledger.jobs.hold(job.id, "look")
    assert (await begin_submit(ledger, job.id)).hold_reason is None
    details = [step.detail for step in await ledger.jobs.history(job.id)]
    assert details[1:4] == ["is held: look", "hold released", "is held: look"]


async def test_the_deadline_moves(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    assert (await ledger.jobs.set_deadline(job.id, NOW)).deadline_at == NOW
    assert (await ledger.jobs.set_deadline(job.id, None)).deadline_at is None


async def test_unknown_ids_are_named(ledger: Ledger) -> None:
    for step in (
        begin_submit(ledger, "nope"),
        ledger.jobs.get("nope"),
        ledger.jobs.release_reservation("nope", "x"),
        ledger.claims.take_over("nope"),
        ledger.jobs.hold("nope", "x"),
        ledger.jobs.record_copy("nope", "p", "s", an_asset()),
    ):
        with pytest.raises(LedgerError, match="no job 'nope'"):
            await step
