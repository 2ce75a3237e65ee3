"""Budgets: what does not fit is not sent, and what is settled is what the provider charged."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from prefect_video.errors import BudgetExceeded
from prefect_video.ledger import Budget, State
from prefect_video.pipeline.entry_points import run_project
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses

PRICE = Decimal("0.30")


@pytest.mark.parametrize("limits", [{"budget_usd": 2 * PRICE}, {"budget_videos": 2}], ids=["money", "number"])
async def test_a_project_that_does_not_fit_is_refused_before_any_request(
    harness: RecoveryHarness, limits: dict[str, Decimal | int]
) -> None:
    with pytest.raises(BudgetExceeded, match=r"project film: the limit is .* asked"):
        await harness.run(film(*(a_shot(n) for n in range(3)), **limits))
    # The free read that a session begins with.
    assert harness.emulator.usage()["requests"] == {"list": 1}
    assert await harness.rows() == []


async def test_what_fits_is_made(harness: RecoveryHarness) -> None:
    project = film(*(a_shot(n) for n in range(4)), budget_usd=2 * PRICE, over_budget="fit")
    for _ in range(2):
        report = await harness.run(project)
        assert statuses(report) == ["stored", "stored", "over_budget", "over_budget"]
    assert harness.paid == (2, 2)


async def test_limits_of_the_ledger_hold_too(harness: RecoveryHarness) -> None:
    month = [Budget(scope="month", limit_videos=1)]
    assert statuses(await harness.run(film(a_shot(1), name="one"), budgets=month)) == ["stored"]
    with pytest.raises(BudgetExceeded, match="month"):
        await harness.run(film(a_shot(2), name="two"), budgets=month)
    assert harness.paid == (1, 1)


async def test_what_is_left_of_a_budget_after_settling_may_be_spent(harness: RecoveryHarness) -> None:
    """A refused prompt and a failed generation cost nothing, so their money is free again."""
    shots = film(
        a_shot(1, prompt="a cat [policy]"), a_shot(2, prompt="a cat [fail]"), budget_usd=2 * PRICE, max_attempts=1
    )
    assert statuses(await harness.run(shots)) == ["failed", "failed"]
    good = film(a_shot(3), a_shot(4), budget_usd=2 * PRICE)
    assert statuses(await harness.run(good)) == ["stored", "stored"]
    jobs = await harness.rows()
    assert sum(job.actual_usd or 0 for job in jobs) == Decimal(harness.emulator.usage()["billed_usd"]) == 2 * PRICE
    assert [job.state for job in jobs[:2]] == [State.RELEASED, State.FAILED]


async def test_a_failure_that_may_be_billed_counts_as_spent_until_it_is_known(harness: RecoveryHarness) -> None:
    async with harness.session() as session:
        session.provider.capabilities = replace(session.provider.capabilities, free_outcomes=())
        project = film(a_shot(prompt="a cat [fail]"), budget_usd=PRICE, max_attempts=2)
        assert statuses(await run_project(session, project)) == ["over_budget"]
        job = await harness.row()
        assert (job.state, job.actual_usd, job.reserved_usd) == (State.FAILED, None, PRICE)
        (line,) = await session.ledger.spend.report(by="project")
    assert (line.videos, line.spent_usd, line.assumed_usd) == (1, PRICE, PRICE)


async def test_a_second_attempt_needs_room_in_the_budget(harness: RecoveryHarness) -> None:
    """The first attempt's cost is not known, as the provider has lost it; there is room for one only."""
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None)
    project = film(a_shot(), budget_usd=PRICE)
    report = await harness.run(project, on_lost="resubmit")
    assert statuses(report) == ["over_budget"]
    assert harness.paid == (1, 1)


async def test_a_reservation_that_was_left_behind_is_used_and_not_doubled(harness: RecoveryHarness) -> None:
    project = film(a_shot(), budget_usd=PRICE)
    await harness.interrupt(project, "claimed")
    assert statuses(await harness.run(project)) == ["stored"]
    assert len(await harness.rows()) == 1
    assert harness.paid == (1, 1)


async def test_a_submit_that_is_turned_away_for_good_blocks_no_other(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="submit", kind="rate_limited", times=None, retry_after=0.05)
    assert statuses(await harness.run(a_shot(1), submit_patience_seconds=0.2)) == ["failed"]
    assert (await harness.row()).state is State.RELEASED
    harness.emulator.clear_faults()
    month = [Budget(scope="month", limit_videos=1)]
    assert statuses(await harness.run(film(a_shot(2), name="other"), budgets=month)) == ["stored"]
