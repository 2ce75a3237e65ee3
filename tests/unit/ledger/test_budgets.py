"""The budget holds."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import update

from prefect_video.ledger import Budget, ClaimResult, Ledger, State
from prefect_video.ledger.tables import jobs_table
from tests.support.records import a_generation, a_request, claim_one, store_one, submit_one

FIVE = Budget(scope="project", limit_usd=Decimal(5))


def kinds(claims: tuple[ClaimResult, ...]) -> list[str]:
    return [claim.kind for claim in claims]


async def test_the_refusal_names_limit_spent_reserved_and_asked(ledger: Ledger) -> None:
    await store_one(ledger, 1, cost_usd=Decimal("1.20"))
    await claim_one(ledger, 2, estimate_usd=Decimal(2))
    (claim,) = (await ledger.claims.claim([a_request(3)], [FIVE])).claims
    assert claim.kind == "over_budget"
    assert claim.job is None
    assert claim.refusal == "project coffee-ad: the limit is $5.00; $1.20 spent, $2.00 reserved, $2.40 asked"
    assert len(await ledger.jobs.find()) == 2


async def test_a_batch_that_does_not_fit_reserves_nothing(ledger: Ledger) -> None:
    await store_one(ledger, 9)
    batch = await ledger.claims.claim([a_request(9), a_request(1), a_request(2), a_request(1)], [FIVE])
    assert kinds(batch.claims) == ["stored", "over_budget", "over_budget", "over_budget"]
    assert {claim.refusal for claim in batch.claims[1:]} == {
        "project coffee-ad: the limit is $5.00; $2.40 spent, $0.00 reserved, $4.80 asked"
    }
    assert await ledger.jobs.unfinished() == []
    assert batch.warnings == ()


async def test_those_that_fit_are_reserved_in_order(ledger: Ledger) -> None:
    job_requests = [a_request(1), a_request(2, estimate_usd=Decimal(3)), a_request(3), a_request(4)]
    batch = await ledger.claims.claim(job_requests, [FIVE], partial=True)
    assert kinds(batch.claims) == ["acquired", "over_budget", "acquired", "over_budget"]
    assert batch.claims[1].refusal == "project coffee-ad: the limit is $5.00; $0.00 spent, $2.40 reserved, $3.00 asked"
    assert batch.warnings == ("project coffee-ad: $4.80 of $5.00 are spent or reserved",)


async def test_the_last_cent_may_be_spent(ledger: Ledger) -> None:
    exact = Budget(scope="project", limit_usd=Decimal("7.20"))
    assert kinds((await ledger.claims.claim([a_request(n) for n in range(3)], [exact])).claims) == ["acquired"] * 3
    tiny = a_request(4, estimate_usd=Decimal("0.000001"))
    (claim,) = (await ledger.claims.claim([tiny], [exact])).claims
    assert claim.refusal.endswith("$7.20 reserved, $0.000001 asked")


async def test_a_duplicate_is_asked_once(ledger: Ledger) -> None:
    batch = await ledger.claims.claim([a_request(1), a_request(1), a_request(1)], [FIVE])
    assert kinds(batch.claims) == ["acquired", "joined", "joined"]


async def test_an_unknown_price_does_not_pass_a_limit_in_usd(ledger: Ledger) -> None:
    unpriced = a_request(1, estimate_usd=None)
    (claim,) = (await ledger.claims.claim([unpriced], [FIVE])).claims
    assert "the price of shot 'shot-1' (sora-2 at sora) is not known" in claim.refusal
    by_number = Budget(scope="project", limit_videos=1)
    (claim,) = (await ledger.claims.claim([unpriced], [by_number])).claims
    assert claim.kind == "acquired"


async def test_a_limit_in_videos(ledger: Ledger) -> None:
    two = Budget(scope="account", limit_videos=2)
    await store_one(ledger, 1)
    (claim,) = (await ledger.claims.claim([a_request(2), a_request(3)], [two])).claims[:1]
    assert claim.refusal == "account sora-1: the limit is 2 videos; 1 paid or reserved, 2 asked"
    batch = await ledger.claims.claim([a_request(2), a_request(3)], [two], partial=True)
    assert kinds(batch.claims) == ["acquired", "over_budget"]
    assert batch.warnings == ("account sora-1: 2 of 2 videos are paid or reserved",)


async def test_nothing_may_be_bought_under_a_limit_of_zero(ledger: Ledger) -> None:
    for none in (Budget(scope="month", limit_usd=Decimal(0)), Budget(scope="month", limit_videos=0)):
        batch = await ledger.claims.claim([a_request()], [none])
        assert kinds(batch.claims) == ["over_budget"]


async def test_each_scope_counts_its_own_rows(ledger: Ledger) -> None:
    await claim_one(ledger, 1, project="other", account="sora-2", environment="staging")
    for scope, kind in (("project", "acquired"), ("account", "acquired"), ("month", "over_budget")):
        budget = Budget.model_validate({"scope": scope, "limit_usd": "2.40"})
        job = (await ledger.claims.claim([a_request(2)], [budget])).claims[0]
        assert job.kind == kind, scope
        if job.job:
            await ledger.jobs.release_reservation(job.job.id, "next")


async def test_last_month_is_over(ledger: Ledger) -> None:
    job = await claim_one(ledger, 1)
    async with ledger._database.writing() as connection:
        before = job.created_at.replace(year=job.created_at.year - 1)
        await connection.execute(update(jobs_table).values(created_at=before))
    month = Budget(scope="month", limit_usd=Decimal("2.40"))
    assert kinds((await ledger.claims.claim([a_request(2)], [month])).claims) == ["acquired"]


async def test_a_reservation_of_an_earlier_month_must_fit_into_this_one(ledger: Ledger, other: Ledger) -> None:
    for number in (1, 2):
        job = await claim_one(ledger, number)
        await ledger.claims.release_ownership([job.id])
    async with ledger._database.writing() as connection:
        before = job.created_at.replace(year=job.created_at.year - 1)
        await connection.execute(update(jobs_table).values(created_at=before))
    month = Budget(scope="month", limit_usd=Decimal("2.40"))
    project = Budget(scope="project", limit_usd=Decimal("4.80"))
    claims = (await other.claims.claim([a_request(1), a_request(2)], [month, project], partial=True)).claims
    assert kinds(claims) == ["acquired", "over_budget"]
    standing = await other.spend.budget_usage([month, project], project="coffee-ad", account="sora-1")
    assert [usage.committed_usd for usage in standing] == [Decimal("2.40")] * 2
    assert [job.state for job in await other.jobs.unfinished()] == [State.RESERVED]
    assert {claim.kind for claim in (await ledger.claims.claim([a_request(1)], [month])).claims} == {"joined"}


async def test_what_was_sent_in_an_earlier_month_is_taken_over_as_it_is(ledger: Ledger, other: Ledger) -> None:
    job = await submit_one(ledger)
    await ledger.claims.release_ownership([job.id])
    async with ledger._database.writing() as connection:
        before = job.created_at.replace(year=job.created_at.year - 1)
        await connection.execute(update(jobs_table).values(created_at=before))
    nothing = Budget(scope="month", limit_usd=Decimal(0))
    (claim,) = (await other.claims.claim([a_request()], [nothing])).claims
    assert (claim.kind, claim.job.id) == ("acquired", job.id)


async def test_a_batch_of_two_projects_is_held_to_both(ledger: Ledger) -> None:
    job_requests = [a_request(1), a_request(2), a_request(3, project="tea-ad")]
    assert kinds((await ledger.claims.claim(job_requests, [FIVE])).claims) == ["acquired"] * 3
    standing = await ledger.spend.budget_usage([FIVE], project="tea-ad", account="sora-1")
    assert standing[0].committed_usd == Decimal("2.40")


async def test_the_tightest_of_several_limits_holds(ledger: Ledger) -> None:
    budgets = [FIVE, Budget(scope="month", limit_usd=Decimal(1))]
    (claim,) = (await ledger.claims.claim([a_request()], budgets)).claims
    assert claim.refusal.startswith("month 20")


@pytest.mark.parametrize(
    ("state", "actual", "spent", "videos"),
    [
        (State.FAILED, Decimal(0), "0", 0),
        (State.CANCELLED, Decimal("0.30"), "0.30", 1),
        (State.FAILED, None, "2.40", 1),
        (State.LOST, None, "2.40", 1),
        (State.LOST, Decimal(0), "0", 1),
    ],
)
async def test_what_an_ended_generation_counts(
    ledger: Ledger, state: State, actual: Decimal | None, spent: str, videos: int
) -> None:
    job = await submit_one(ledger)
    await ledger.jobs.record_ended(job.id, state, "over", actual_usd=actual)
    (standing,) = await ledger.spend.budget_usage([FIVE], project="coffee-ad", account="sora-1")
    assert (standing.spent_usd, standing.reserved_usd, standing.videos) == (Decimal(spent), 0, videos)


async def test_a_release_frees_the_money(ledger: Ledger) -> None:
    budget = Budget(scope="project", limit_usd=Decimal("2.40"))
    (claim,) = (await ledger.claims.claim([a_request(1)], [budget])).claims
    await ledger.jobs.release_reservation(claim.job.id, "refused")
    assert kinds((await ledger.claims.claim([a_request(1)], [budget])).claims) == ["acquired"]


async def test_the_real_cost_replaces_the_reserved_one(ledger: Ledger) -> None:
    job = await submit_one(ledger)
    (standing,) = await ledger.spend.budget_usage([FIVE], project="coffee-ad", account="sora-1")
    assert (standing.spent_usd, standing.reserved_usd) == (0, Decimal("2.40"))
    await ledger.jobs.record_completed(job.id, a_generation("gen-1", cost_usd=Decimal("1.111111")))
    (standing,) = await ledger.spend.budget_usage([FIVE], project="coffee-ad", account="sora-1")
    assert (standing.spent_usd, standing.reserved_usd) == (Decimal("1.111111"), 0)


async def test_taking_over_needs_no_budget(ledger: Ledger, other: Ledger) -> None:
    job = await claim_one(ledger)
    await ledger.claims.release_ownership([job.id])
    nothing = Budget(scope="project", limit_usd=Decimal(0))
    assert kinds((await other.claims.claim([a_request()], [nothing])).claims) == ["acquired"]


async def test_no_warning_when_nothing_is_bought(ledger: Ledger) -> None:
    await store_one(ledger)
    batch = await ledger.claims.claim([a_request()], [Budget(scope="project", limit_usd=Decimal("2.50"))])
    assert (kinds(batch.claims), batch.warnings) == (["stored"], ())


async def test_a_race_on_the_last_dollar_has_one_winner(ledger: Ledger, other: Ledger) -> None:
    last = Budget(scope="project", limit_usd=Decimal("2.40"))
    attempts = [owner.claims.claim([a_request(n)], [last]) for n, owner in enumerate([ledger, other] * 4)]
    claims = [batch.claims[0].kind for batch in await asyncio.gather(*attempts)]
    assert sorted(claims) == ["acquired"] + ["over_budget"] * 7


async def test_a_nearly_used_budget_is_reported_with_what_the_claim_added(ledger: Ledger) -> None:
    await store_one(ledger, 1, cost_usd=Decimal("1.20"))
    batch = await ledger.claims.claim([a_request(2)], [FIVE])
    assert batch.nearly_used == (), "$3.60 of $5.00"
    (usage,) = (await ledger.claims.claim([a_request(3, estimate_usd=Decimal("0.40"))], [FIVE])).nearly_used
    assert (usage.name, usage.spent_usd, usage.reserved_usd, usage.videos) == (
        "project coffee-ad",
        Decimal("1.20"),
        Decimal("2.80"),
        3,
    )
