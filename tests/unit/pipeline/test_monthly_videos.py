"""The videos a month of a plan are a limit like any other; counted by the provider's books."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.errors import BudgetExceeded
from prefect_video.ledger import Budget, Ledger, State
from prefect_video.ledger.tables import generations
from prefect_video.pipeline.plan import plan_project
from prefect_video.providers.sora.provider import SoraProvider
from tests.support.records import an_intent, claim_one, store_one
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenWorkshop

THREE = Budget(scope="plan", limit_videos=3)


class Planned(SoraProvider):
    """One whose plan has three videos a month."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.capabilities = replace(self.capabilities, monthly_videos=3)


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, open_workshop: OpenWorkshop) -> Workshop:
    """A workshop on each kind of ledger."""
    if request.param == "sqlite":
        return open_workshop()
    url: str = request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True):
        pass
    return open_workshop(url)


async def test_what_the_plan_has_no_room_for_is_refused_before_any_request(either: Workshop) -> None:
    with pytest.raises(
        BudgetExceeded,
        match=r"plan of account emulator-\w+ in \d{4}-\d\d: the limit is 3 videos; 0 paid or reserved, 4",
    ):
        await either.run(film(*(a_shot(n) for n in range(4))), kind=Planned)
    assert either.emulator.books()["requests"] == {}
    assert await either.rows() == []


async def test_runs_side_by_side_share_the_plan_over_projects(either: Workshop) -> None:
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


async def test_a_second_attempt_and_a_second_take_count(workshop: Workshop) -> None:
    shots = film(a_shot(1, takes=2), a_shot(2), a_shot(3), over_budget="fit")
    assert statuses(await workshop.run(shots, kind=Planned)) == ["stored", "stored", "stored", "over_budget"]
    assert workshop.paid == (3, 3)


async def test_what_failed_for_free_leaves_room(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(1, prompt="a cat [fail]"), max_attempts=1), kind=Planned)
    report = await workshop.run(film(*(a_shot(n) for n in range(2, 5))), kind=Planned)
    assert statuses(report) == ["stored"] * 3
    assert workshop.paid == (4, 3)


async def test_last_month_does_not_count(either: Workshop) -> None:
    await either.run(film(*(a_shot(n) for n in range(3))), kind=Planned)
    async with either.ledger() as ledger, ledger._database.writing() as connection:
        last_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(seconds=1)
        await connection.execute(update(generations).values(created_at=last_month))
    assert statuses(await either.run(a_shot(9), kind=Planned)) == ["stored"]
    assert either.paid == (4, 4)


async def test_the_plan_command_says_so_beforehand(workshop: Workshop) -> None:
    async with workshop.studio(kind=Planned) as studio:
        plan = await plan_project(studio, film(*(a_shot(n) for n in range(4))))
    assert "the limit is 3 videos" in (plan.refusal or "")


async def test_each_account_has_its_own_plan(either: Workshop) -> None:
    async with either.ledger() as ledger:
        for number in range(3):
            await store_one(ledger, number)
        (own,) = (await ledger.claim([an_intent(7)], [THREE])).claims
        assert own.kind == "over_budget"
        (other,) = (await ledger.claim([an_intent(7, account="sora-2")], [THREE])).claims
        assert other.kind == "yours"
        batch = await ledger.claim([an_intent(n, account="sora-2") for n in (8, 9, 10)], [THREE], partial=True)
        assert [claim.kind for claim in batch.claims] == ["yours", "yours", "over_budget"]


async def test_a_reservation_of_another_account_is_made_anew_within_the_plan_of_the_asking_one(
    either: Workshop,
) -> None:
    async with either.ledger() as ledger:
        for number in range(3):
            await store_one(ledger, number, account="full")
        entry = await claim_one(ledger, 7, account="other", estimate_usd=Decimal(1))
        await ledger.let_go([entry.id])
        (claim,) = (await ledger.claim([an_intent(7, account="full")], [THREE])).claims
        assert claim.kind == "over_budget"
        assert (await ledger.get(entry.id)).state is State.RELEASED
        (claim,) = (await ledger.claim([an_intent(7, account="third")], [THREE])).claims
        assert (claim.kind, claim.entry and claim.entry.account) == ("yours", "third")
