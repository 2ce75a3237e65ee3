"""Late reservations, and choices, on each kind of ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from prefect_video.errors import InvalidTransition
from prefect_video.ledger import LATE_PREFIX, Budget, Choice, ClaimOutcome, JobRequest, Ledger, State
from tests.support.records import PRICE, a_request, begin_submit, fingerprint_of

LATE = f"{LATE_PREFIX}{'0' * 64}"
TWO = [Budget(scope="month", limit_usd=2 * PRICE)]


def late_request() -> JobRequest:
    """Build the request of a late reservation."""
    return a_request(2, fingerprint=LATE)


async def test_a_reservation_becomes_the_job_that_it_was_made_for(ledger: Ledger) -> None:
    first, late = (await ledger.claims.claim([a_request(1), late_request()], TWO)).claims
    assert late.job is not None
    with pytest.raises(InvalidTransition, match="late reservation"):
        await begin_submit(ledger, late.job.id)
    refused = (await ledger.claims.claim([a_request(3)], TWO, partial=True)).claims[0]
    assert refused.kind is ClaimOutcome.OVER_BUDGET

    (claimed,) = (await ledger.claims.claim([a_request(2, reservation=LATE)], TWO)).claims
    assert claimed.kind is ClaimOutcome.ACQUIRED
    assert claimed.job is not None
    assert (claimed.job.id, claimed.job.fingerprint) == (late.job.id, fingerprint_of(2))
    assert await ledger.jobs.get(late.job.id) == claimed.job
    assert first.job is not None
    assert {job.id for job in await ledger.jobs.unfinished()} == {first.job.id, late.job.id}


async def test_a_reservation_is_freed_where_the_job_exists(ledger: Ledger) -> None:
    claims = (await ledger.claims.claim([a_request(2), late_request()], TWO)).claims
    (joined,) = (await ledger.claims.claim([a_request(2, reservation=LATE)], TWO)).claims
    assert joined.kind is ClaimOutcome.JOINED
    assert claims[1].job is not None
    assert (await ledger.jobs.get(claims[1].job.id)).state is State.RELEASED


async def test_the_reservation_of_a_dead_run_is_no_limit_to_others(ledger: Ledger, other: Ledger) -> None:
    (late,) = (await other.claims.claim([late_request()], TWO)).claims
    assert late.job is not None
    (usage,) = await ledger.spend.budget_usage(TWO, project="film", account="account")
    assert usage.reserved_usd == PRICE
    await other.aclose()
    (usage,) = await ledger.spend.budget_usage(TWO, project="film", account="account")
    assert usage.reserved_usd == 0
    batch = await ledger.claims.claim([a_request(3), a_request(4)], TWO)
    assert [claim.kind for claim in batch.claims] == [ClaimOutcome.ACQUIRED] * 2
    assert (await ledger.jobs.get(late.job.id)).state is State.RELEASED


async def test_the_first_of_two_choices_counts_and_a_human_overrules_it(ledger: Ledger) -> None:
    choice = Choice(
        project="film",
        shot_id="a",
        prompt="x",
        take=1,
        fingerprint="v1:1",
        decided_by="first",
        decided_at=datetime.now(UTC),
    )
    later = choice.model_copy(update={"take": 2, "fingerprint": "v1:2"})
    among = ["v1:1", "v1:2"]
    await ledger.choices.record(choice, environment="production", unless_among=among)
    assert (await ledger.choices.record(later, environment="production", unless_among=among)).take == 1
    assert (await ledger.choices.record(later, environment="production")).take == 2
    assert await ledger.choices.read("film", environment="production") == {"a": later}
    assert await ledger.choices.read("film", environment="staging") == {}


@pytest.mark.parametrize("decided", [{"is_dropped": True}, {"new_prompt": "y"}], ids=["drop", "redo"])
async def test_a_run_does_not_overrule_what_a_human_decided_meanwhile(
    ledger: Ledger, decided: dict[str, object]
) -> None:
    values = {"project": "film", "shot_id": "a", "prompt": "x", "decided_by": "ann", "decided_at": datetime.now(UTC)}
    human = Choice.model_validate(values | decided)
    best = Choice.model_validate(values | {"take": 1, "fingerprint": "v1:1", "decided_by": "best"})
    await ledger.choices.record(human, environment="production")
    assert await ledger.choices.record(best, environment="production", unless_among=["v1:1"]) == human
    # A run that began with that prompt may choose among its takes.
    of_redo = best.model_copy(update={"new_prompt": "y"})
    held = await ledger.choices.record(of_redo, environment="production", unless_among=["v1:1"])
    assert held == (human if human.is_dropped else of_redo)
