"""The videos a month of a plan are a limit like any other; counted by the provider's usage records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.errors import BudgetExceeded
from prefect_video.ledger import Budget, ClaimOutcome, Ledger, State
from prefect_video.ledger.tables import jobs_table
from prefect_video.pipeline.plan import plan_project
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.records import a_request, claim_one, store_one
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

THREE = Budget(scope="plan", limit_videos=3)


class Planned(SoraProvider):
    """One whose plan has three videos a month."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.capabilities = replace(self.capabilities, monthly_videos=3)


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, open_harness: OpenHarness) -> RecoveryHarness:
    """A harness on each kind of ledger."""
    if request.param == "sqlite":
        return open_harness()
    url: str = request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True):
        pass
    return open_harness(url)


async def test_what_the_plan_has_no_room_for_is_refused_before_any_submit(either: RecoveryHarness) -> None:
    with pytest.raises(
        BudgetExceeded,
        match=r"plan of account emulator-\w+ in \d{4}-\d\d: the limit is 3 videos; 0 paid or reserved, 4",
    ):
        await either.run(film(*(a_shot(n) for n in range(4))), kind=Planned)
    # The free read that every session begins with; nothing was submitted.
    assert either.emulator.usage()["requests"] == {"list": 1}
    assert await either.rows() == []


async def test_runs_side_by_side_share_the_plan_over_projects(either: RecoveryHarness) -> None:
    projects = [
        film(*(a_shot(10 * project + n) for n in range(3)), name=f"film-{project}", over_budget="fit")
        for project in range(3)
    ]
    reports = await asyncio.gather(*(either.run(project, kind=Planned) for project in projects))
    found = [status for report in reports for status in statuses(report)]
    assert sorted(found) == ["over_budget"] * 6 + ["stored"] * 3
    assert either.paid == (3, 3)
    stored = next(p for p, report in zip(projects, reports, strict=True) if "stored" in statuses(report))
    again = await either.run(stored, kind=Planned)
    assert statuses(again).count("stored") >= 1
    assert either.paid == (3, 3)


async def test_a_second_attempt_and_a_second_take_count(harness: RecoveryHarness) -> None:
    shots = film(a_shot(1, takes=2), a_shot(2), a_shot(3), over_budget="fit")
    assert statuses(await harness.run(shots, kind=Planned)) == ["stored", "stored", "stored", "over_budget"]
    assert harness.paid == (3, 3)


async def test_what_failed_for_free_leaves_room(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1, prompt="a cat [fail]"), max_attempts=1), kind=Planned)
    report = await harness.run(film(*(a_shot(n) for n in range(2, 5))), kind=Planned)
    assert statuses(report) == ["stored"] * 3
    assert harness.paid == (4, 3)


async def test_last_month_does_not_count(either: RecoveryHarness) -> None:
    await either.run(film(*(a_shot(n) for n in range(3))), kind=Planned)
    async with either.ledger() as ledger, ledger._database.writing() as connection:
        last_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
        await connection.execute(update(jobs_table).values(created_at=last_month))
    assert statuses(await either.run(a_shot(9), kind=Planned)) == ["stored"]
    assert either.paid == (4, 4)


async def test_the_plan_command_says_so_beforehand(harness: RecoveryHarness) -> None:
    async with harness.session(kind=Planned) as session:
        plan = await plan_project(session, film(*(a_shot(n) for n in range(4))))
    assert "the limit is 3 videos" in (plan.refusal or "")


async def test_each_account_has_its_own_plan(either: RecoveryHarness) -> None:
    async with either.ledger() as ledger:
        for number in range(3):
            await store_one(ledger, number)
        (own,) = (await ledger.claims.claim([a_request(7)], [THREE])).claims
        assert own.kind is ClaimOutcome.OVER_BUDGET
        (other,) = (await ledger.claims.claim([a_request(7, account="sora-2")], [THREE])).claims
        assert other.kind is ClaimOutcome.ACQUIRED
        batch = await ledger.claims.claim([a_request(n, account="sora-2") for n in (8, 9, 10)], [THREE], partial=True)
        assert [claim.kind for claim in batch.claims] == [
            ClaimOutcome.ACQUIRED,
            ClaimOutcome.ACQUIRED,
            ClaimOutcome.OVER_BUDGET,
        ]


async def test_a_reservation_of_another_account_is_made_anew_within_the_plan_of_the_asking_one(
    either: RecoveryHarness,
) -> None:
    async with either.ledger() as ledger:
        for number in range(3):
            await store_one(ledger, number, account="full")
        job = await claim_one(ledger, 7, account="other", estimate_usd=Decimal(1))
        await ledger.claims.release_ownership([job.id])
        (claim,) = (await ledger.claims.claim([a_request(7, account="full")], [THREE])).claims
        assert claim.kind is ClaimOutcome.OVER_BUDGET
        assert (await ledger.jobs.get(job.id)).state is State.RELEASED
        (claim,) = (await ledger.claims.claim([a_request(7, account="third")], [THREE])).claims
        assert (claim.kind, claim.job and claim.job.account) == (ClaimOutcome.ACQUIRED, "third")
