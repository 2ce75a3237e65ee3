"""What the ledger can be asked: rows, books, copies, prompts under review."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from prefect_video.errors import ContentPolicyError, PromptBlocked
from prefect_video.ledger import REQUEST_PREFIX, Ledger, SpendRow, State
from tests.support.records import (
    a_request,
    an_asset,
    begin_submit,
    claim_one,
    fingerprint_of,
    store_one,
    submit_one,
)

HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)
IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


async def test_many_rows_in_the_order_asked_for(ledger: Ledger) -> None:
    batch = await ledger.claims.claim([a_request(number) for number in range(600)])
    ids = [claim.job.id for claim in reversed(batch.claims)]
    assert [job.id for job in await ledger.jobs.get_many([*ids, "nope", ids[0]])] == ids


async def test_stored_rows_of_many_fingerprints(ledger: Ledger) -> None:
    stored = await store_one(ledger, 1)
    await submit_one(ledger, 2)
    nothing = [None] * 699
    wanted = [a_request(number) for number in range(700)]
    assert await ledger.jobs.find_stored(wanted) == [None, (stored, False), *nothing[1:]]
    assert await ledger.jobs.find_stored([a_request(1, ttl_seconds=60, flow_run_id="run-2")]) == [(stored, False)]
    assert await ledger.jobs.find_stored([a_request(1, ttl_seconds=0, flow_run_id="run-2")]) == [None]
    assert await ledger.jobs.find_stored([a_request(1, environment="staging")]) == [None]
    assert await ledger.jobs.find_stored([]) == []


async def test_a_generation_is_found_by_account_and_id(ledger: Ledger) -> None:
    job = await submit_one(ledger)
    assert await ledger.jobs.find_generation("sora-1", "gen-1") == job
    assert await ledger.jobs.find_generation("sora-2", "gen-1") is None


async def test_unfinished_rows_by_everything(ledger: Ledger) -> None:
    await store_one(ledger, 1)
    first = await submit_one(ledger, 2)
    second = await claim_one(ledger, 3, project="tea", environment="staging", account="sora-2", flow_run_id="run-2")
    assert await ledger.jobs.unfinished() == [first, second]
    assert await ledger.jobs.unfinished(project="tea") == [second]
    assert await ledger.jobs.unfinished(environment="production") == [first]
    assert await ledger.jobs.unfinished(account="sora-2", flow_run_id="run-2") == [second]
    assert await ledger.jobs.unfinished(account="sora-2", flow_run_id="run-1") == []


async def test_rows_newest_first(ledger: Ledger) -> None:
    stored = await store_one(ledger, 1)
    waiting = await claim_one(ledger, 2, project="tea")
    waiting = await ledger.jobs.hold(waiting.id, "look")
    assert await ledger.jobs.find() == [waiting, stored]
    assert await ledger.jobs.find(limit=1) == [waiting]
    assert await ledger.jobs.find(state=State.STORED) == [stored]
    assert await ledger.jobs.find(project="tea", flow_run_id="run-1") == [waiting]
    assert await ledger.jobs.find(hold_reason=True) == [waiting]
    assert await ledger.jobs.find(hold_reason=False) == [stored]


async def test_what_an_account_has_in_flight_and_sent(ledger: Ledger) -> None:
    await store_one(ledger, 1)
    submitted = await submit_one(ledger, 2)
    await claim_one(ledger, 3)
    sending = await claim_one(ledger, 4)
    await begin_submit(ledger, sending.id)
    await submit_one(ledger, 5, account="sora-2")
    assert await ledger.jobs.occupied("sora-1") == 2
    assert await ledger.jobs.submissions_since("sora-1", HOUR_AGO) == 3
    assert await ledger.jobs.submissions_since("sora-1", IN_AN_HOUR) == 0
    recorded = await ledger.jobs.recorded_generations("sora-1")
    assert set(recorded) == {"gen-1", "gen-2"}
    assert all(HOUR_AGO < found.recorded_at < IN_AN_HOUR for found in recorded.values())
    assert [recorded[name].in_progress for name in ("gen-1", "gen-2")] == [False, True]
    assert recorded["gen-2"].prompt == submitted.shot.prompt
    await ledger.jobs.hold(submitted.id, "it is overdue")
    assert (await ledger.jobs.recorded_generations("sora-1"))["gen-2"].in_progress is None


async def test_what_was_turned_away_and_sent_again_counts_twice(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    for _ in range(2):
        await begin_submit(ledger, job.id)
        await ledger.jobs.return_to_reserved(job.id, "429")
    await begin_submit(ledger, job.id)
    await ledger.claims.release_ownership([job.id])
    assert await other.claims.take_over(job.id)
    assert await ledger.jobs.submissions_since("sora-1", HOUR_AGO) == 3


async def test_copies_of_a_video(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    first, second = an_asset(stored), an_asset(stored, uri="file:///elsewhere.mp4")
    await ledger.jobs.record_copy(stored.id, "tea", "shot-7", first)
    await ledger.jobs.record_copy(stored.id, "tea", "shot-7", second)
    await ledger.jobs.record_copy(stored.id, "milk", "shot-7", first)
    assert await ledger.jobs.copies([stored.id, "nope"], "tea") == {(stored.id, "shot-7"): second}


@pytest.fixture
async def books(ledger: Ledger) -> Ledger:
    await store_one(ledger, 1, cost_usd=Decimal("1.50"))
    await submit_one(ledger, 2, project="tea")
    await store_one(ledger, 3, estimate_usd=None)
    free = await submit_one(ledger, 4)
    await ledger.jobs.record_ended(free.id, State.FAILED, "over", actual_usd=Decimal(0))
    released = await claim_one(ledger, 5)
    await ledger.jobs.release_reservation(released.id, "refused")
    return ledger


async def test_a_process_resumes_the_requests_that_are_not_its_own_or_may_have_ended(
    ledger: Ledger, other: Ledger
) -> None:
    request = {"flow_run_id": f"{REQUEST_PREFIX}1"}
    own = await claim_one(ledger, 1, **request)
    theirs = await claim_one(other, 2, **request)
    await claim_one(other, 3, flow_run_id="run-1")
    held = await claim_one(other, 4, **request)
    await other.jobs.hold(held.id, "look at it")
    sent = await submit_one(other, 5, **request)
    await ledger.claims.release_ownership([own.id])
    assert await ledger.jobs.find_resumable_requests("sora-1", with_ended=False) == [own.id, theirs.id]
    assert await ledger.jobs.find_resumable_requests("sora-1", with_ended=True) == [own.id, theirs.id, sent.id]
    assert await other.jobs.find_resumable_requests("sora-1", with_ended=False) == [own.id]
    assert await other.jobs.find_resumable_requests("another", with_ended=True) == []


async def test_spend_by_project(books: Ledger) -> None:
    assert await books.spend.report(by="project") == [
        SpendRow(key="coffee-ad", videos=2, stored=2, spent_usd=Decimal("1.5"), reserved_usd=Decimal(0), unpriced=1),
        SpendRow(key="tea", videos=1, stored=0, spent_usd=Decimal(0), reserved_usd=Decimal("2.4")),
    ]
    assert [line.key for line in await books.spend.report(by="project", project="tea")] == ["tea"]
    assert await books.spend.report(by="project", since=IN_AN_HOUR) == []


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("month", f"{datetime.now(UTC):%Y-%m}"),
        ("day", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("account", "sora-1"),
        ("model", "sora-2"),
    ],
)
async def test_spend_by_everything_else(books: Ledger, by: str, key: str) -> None:
    (line,) = await books.spend.report(by=by)  # type: ignore[arg-type]
    assert (line.key, line.videos, line.spent_usd) == (key, 3, Decimal("1.5"))


async def test_refused_prompts_are_kept_for_review(ledger: Ledger) -> None:
    refused = await claim_one(ledger, 1)
    refused = await ledger.jobs.release_reservation(refused.id, ContentPolicyError("violence", provider="sora"))
    other = await claim_one(ledger, 2)
    await ledger.jobs.release_reservation(other.id, "something else")
    screened = await ledger.reviews.record_screened(a_request(3), PromptBlocked("a forbidden word"))
    assert screened == await ledger.jobs.get(screened.id)
    assert (screened.state, screened.error_type) == (State.RELEASED, "PromptBlocked")
    assert screened.error_message == "a forbidden word"
    assert await ledger.reviews.refused() == [screened, refused]
    assert (await ledger.spend.report(by="project")) == []


async def test_prompts_are_allowed_by_fingerprint(ledger: Ledger) -> None:
    await ledger.reviews.allow(fingerprint_of(1), "it is a film about knives")
    await ledger.reviews.allow(fingerprint_of(1), "still is")
    assert await ledger.reviews.allowed([fingerprint_of(1), fingerprint_of(2)]) == {fingerprint_of(1)}
