"""Who may buy what."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from prefect_video.errors import GenerationFailed
from prefect_video.ledger import ClaimResult, JobRequest, Ledger, State
from tests.support.records import a_generation, a_request, an_asset, begin_submit, claim_one, store_one, submit_one


async def ask(ledger: Ledger, job_request: JobRequest) -> ClaimResult:
    (claim,) = (await ledger.claims.claim([job_request])).claims
    return claim


async def test_a_new_fingerprint_is_reserved(ledger: Ledger) -> None:
    claim = await ask(ledger, a_request())
    assert claim.kind == "acquired"
    assert claim.job == await ledger.jobs.get(claim.job.id)
    assert (claim.job.state, claim.job.attempt, claim.job.owner) == (State.RESERVED, 1, ledger.owner_id)
    assert claim.job.reserved_usd == Decimal("2.40")
    (step,) = await ledger.jobs.history(claim.job.id)
    assert (step.from_state, step.to_state, step.owner) == (None, State.RESERVED, ledger.owner_id)


async def test_no_requests_no_claims(ledger: Ledger) -> None:
    assert (await ledger.claims.claim([])).claims == ()


async def test_what_is_in_progress_is_joined_by_every_owner(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    assert [(await ask(asker, a_request())).kind for asker in (ledger, other)] == ["joined", "joined"]
    assert (await ask(other, a_request())).job == job


async def test_a_duplicate_in_one_batch_joins_the_first(ledger: Ledger) -> None:
    batch = await ledger.claims.claim([a_request(1), a_request(2), a_request(1)])
    assert [claim.kind for claim in batch.claims] == ["acquired", "acquired", "joined"]
    assert batch.claims[0].job == batch.claims[2].job


async def test_environments_do_not_share(ledger: Ledger) -> None:
    await claim_one(ledger)
    assert (await ask(ledger, a_request(environment="staging"))).kind == "acquired"


async def test_what_is_stored_is_answered_with_its_asset(ledger: Ledger, other: Ledger) -> None:
    stored = await store_one(ledger)
    claim = await ask(other, a_request(flow_run_id="run-2"))
    assert claim.kind == "stored"
    assert claim.job == stored
    assert claim.job.asset is not None


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"refresh": True, "flow_run_id": "run-2"}, "acquired"),
        ({"refresh": True, "flow_run_id": None}, "acquired"),
        ({"refresh": True, "flow_run_id": "run-1"}, "stored"),
        ({"ttl_seconds": 3600.0, "flow_run_id": "run-2"}, "stored"),
        ({"ttl_seconds": 0.0, "flow_run_id": "run-2"}, "acquired"),
        # A retried run must not buy again what it has bought itself.
        ({"ttl_seconds": 0.0, "flow_run_id": "run-1"}, "stored"),
    ],
)
async def test_refresh_and_age(ledger: Ledger, changes: dict[str, object], kind: str) -> None:
    await store_one(ledger)
    assert (await ask(ledger, a_request(**changes))).kind == kind


async def test_the_newest_stored_row_answers(ledger: Ledger) -> None:
    await store_one(ledger, 1)
    job = await claim_one(ledger, 1, refresh=True, flow_run_id="run-2")
    await begin_submit(ledger, job.id)
    await ledger.jobs.record_submitted(job.id, a_generation("gen-again"))
    await ledger.jobs.record_completed(job.id, a_generation("gen-again"))
    assert (await ask(ledger, a_request(flow_run_id="run-3"))).kind == "joined"
    (match,) = await ledger.jobs.find_stored([a_request(flow_run_id="run-3")])
    assert match is not None
    assert match.job.id != job.id
    assert match.is_made_anew
    await ledger.jobs.record_stored(job.id, an_asset(job))
    assert (await ask(ledger, a_request(flow_run_id="run-3"))).job.id == job.id
    (match,) = await ledger.jobs.find_stored([a_request(flow_run_id="run-3")])
    assert match is not None
    assert match.job.id == job.id
    assert not match.is_made_anew


async def test_a_missing_file_may_be_bought_again_and_is_no_failed_attempt(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    await ledger.jobs.record_missing(stored.id, "the file is gone")
    claim = await ask(ledger, a_request(max_attempts=1))
    assert claim.kind == "acquired"
    assert claim.job.attempt == 1


async def fail_one(ledger: Ledger, number: int, generation_id: str) -> str:
    job = await claim_one(ledger, number)
    await begin_submit(ledger, job.id)
    await ledger.jobs.record_submitted(job.id, a_generation(generation_id))
    error = GenerationFailed("it failed", provider="sora", generation_id=generation_id)
    await ledger.jobs.record_ended(job.id, State.FAILED, error, actual_usd=Decimal(0))
    return job.id


async def test_attempts_are_counted_within_a_flow_run(ledger: Ledger) -> None:
    first = await fail_one(ledger, 1, "gen-1")
    claim = await ask(ledger, a_request(max_attempts=1))
    assert (claim.kind, claim.job.id) == ("exhausted", first)
    assert (await ask(ledger, a_request())).job.attempt == 2


async def test_the_last_failure_is_shown_when_attempts_are_used_up(ledger: Ledger) -> None:
    await fail_one(ledger, 1, "gen-1")
    second = await fail_one(ledger, 1, "gen-2")
    claim = await ask(ledger, a_request(max_attempts=2))
    assert (claim.kind, claim.job.id) == ("exhausted", second)


@pytest.mark.parametrize("flow_run_id", ["run-2", None])
async def test_failures_of_other_runs_do_not_count(ledger: Ledger, flow_run_id: str | None) -> None:
    await fail_one(ledger, 1, "gen-1")
    claim = await ask(ledger, a_request(max_attempts=1, flow_run_id=flow_run_id))
    assert claim.kind == "acquired"
    assert claim.job.attempt == 1


async def test_released_rows_are_no_attempts(ledger: Ledger) -> None:
    job = await claim_one(ledger)
    await ledger.jobs.release_reservation(job.id, "refused")
    claim = await ask(ledger, a_request(max_attempts=1))
    assert claim.kind == "acquired"
    assert claim.job.attempt == 1


async def test_a_row_without_owner_is_taken_over_where_it_stands(ledger: Ledger, other: Ledger) -> None:
    job = await submit_one(ledger)
    await ledger.claims.release_ownership([job.id])
    batch = await other.claims.claim([a_request(flow_run_id="run-2"), a_request(flow_run_id="run-2")])
    assert [claim.kind for claim in batch.claims] == ["acquired", "joined"]
    taken = batch.claims[0].job
    assert (taken.id, taken.state, taken.owner) == (job.id, State.SUBMITTED, other.owner_id)
    assert taken.flow_run_id == "run-2"
    assert (await other.jobs.history(job.id))[-1].detail == "taken over"


async def test_a_row_that_waits_for_a_human_is_not_taken_over(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    await ledger.jobs.hold(job.id, "look at it")
    await ledger.claims.release_ownership([job.id])
    claim = await ask(other, a_request())
    assert claim.kind == "joined"
    assert claim.job.hold_reason == "look at it"


@pytest.mark.parametrize("state", [State.LOST, State.EXPIRED])
async def test_an_end_that_waits_for_a_human_holds_its_fingerprint(ledger: Ledger, other: Ledger, state: State) -> None:
    job = await submit_one(ledger)
    await ledger.jobs.record_ended(job.id, state, "gone", actual_usd=None, hold_reason="buy it again?")
    for run in ("run-1", "run-2", None):
        claim = await ask(other, a_request(flow_run_id=run, max_attempts=1, refresh=True))
        assert (claim.kind, claim.job.id) == ("joined", job.id)
        assert claim.job.hold_reason == "buy it again?"
    assert len(await ledger.jobs.find()) == 1
    await ledger.jobs.unhold(job.id)
    assert (await ask(other, a_request(flow_run_id="run-2"))).kind == "acquired"


async def test_what_is_stored_answers_though_a_later_purchase_waits_for_a_human(ledger: Ledger) -> None:
    stored = await store_one(ledger)
    again = await claim_one(ledger, refresh=True, flow_run_id="run-2")
    await begin_submit(ledger, again.id)
    await ledger.jobs.record_submitted(again.id, a_generation("gen-again"))
    await ledger.jobs.record_ended(again.id, State.LOST, "gone", actual_usd=None, hold_reason="buy it again?")
    assert (await ask(ledger, a_request(flow_run_id="run-3"))).job.id == stored.id
    assert (await ask(ledger, a_request(flow_run_id="run-3", refresh=True))).job.id == again.id


async def test_letting_go_touches_only_ones_own_unfinished_rows(ledger: Ledger, other: Ledger) -> None:
    mine, theirs = await claim_one(ledger, 1), await claim_one(other, 2)
    done = await store_one(ledger, 3)
    await ledger.claims.release_ownership([mine.id, theirs.id, done.id])
    assert (await ledger.jobs.get(mine.id)).owner is None
    assert await ledger.jobs.get(theirs.id) == theirs
    assert await ledger.jobs.get(done.id) == done


async def test_closing_frees_the_rows(ledger: Ledger, url: str) -> None:
    async with await Ledger.open(url) as short:
        job = await claim_one(short)
    assert not await ledger.claims.is_owner_alive(short.owner_id)
    claim = await ask(ledger, a_request())
    assert (claim.kind, claim.job.id) == ("acquired", job.id)


async def test_two_coroutines_one_buyer(ledger: Ledger) -> None:
    batches = await asyncio.gather(*(ledger.claims.claim([a_request(1), a_request(2)]) for _ in range(8)))
    kinds = [claim.kind for batch in batches for claim in batch.claims]
    assert kinds.count("acquired") == 2
    assert kinds.count("joined") == 14


async def test_a_cancelled_claim_leaves_nothing_owned(ledger: Ledger) -> None:
    for _ in range(5):
        claiming = asyncio.create_task(ledger.claims.claim([a_request(1)]))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    assert all(job.owner is None for job in await ledger.jobs.unfinished())
    assert (await ask(ledger, a_request(1))).kind == "acquired"


async def test_a_thousand_requests_keep_their_order(ledger: Ledger) -> None:
    job_requests = [a_request(number) for number in range(1000)]
    batch = await ledger.claims.claim(job_requests)
    assert {claim.kind for claim in batch.claims} == {"acquired"}
    assert [claim.request for claim in batch.claims] == job_requests
    assert [job.fingerprint for job in await ledger.jobs.unfinished()] == [i.fingerprint for i in job_requests]
