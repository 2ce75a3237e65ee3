"""What a provider says that a generation cost is believed up to a bound; the usage are the provider's own."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from prefect_video.errors import InvalidTransition
from prefect_video.ledger import Ledger, State
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Settings
from prefect_video.shots import Shot
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

PRICE = Decimal("0.30")


class Unpriced(SoraProvider):
    """One that has no price list."""

    def estimate(self, shot: Shot) -> Decimal | None:
        return None


class Free(SoraProvider):
    """One at home, which costs nothing."""

    def estimate(self, shot: Shot) -> Decimal | None:
        return Decimal(0)


@pytest.fixture(params=["sqlite", "postgresql"])
async def either(request: pytest.FixtureRequest, open_harness: OpenHarness) -> RecoveryHarness:
    """A harness on each kind of ledger."""
    if request.param == "sqlite":
        return open_harness()
    url: str = request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True):
        pass
    return open_harness(url)


def quote(harness: RecoveryHarness, cost: float | str | bool) -> None:
    """Has the provider say from now on that everything cost this; what it bills is another matter."""
    harness.emulator.add_fault(operation="retrieve", kind="wrong_cost", times=None, cost=cost)


async def spent(harness: RecoveryHarness) -> Decimal:
    async with harness.ledger() as ledger:
        return sum((line.spent_usd for line in await ledger.spend.report(by="project")), Decimal(0))


async def test_a_slip_of_the_provider_neither_fills_a_budget_nor_costs_a_video(either: RecoveryHarness) -> None:
    quote(either, 999_999)
    report = await either.run(film(a_shot(1), budget_usd=4 * PRICE))
    assert (statuses(report), report.cost_usd) == (["stored"], PRICE)
    assert len(either.videos) == 1
    row = await either.row()
    assert (row.state, row.actual_usd, row.disputed_usd, row.cost_usd) == (State.STORED, None, 999_999, PRICE)
    assert row.hold_reason is not None
    assert "$999999.00" in row.hold_reason
    assert "$0.30 is booked" in row.hold_reason
    assert f"prefect-video resolve {row.id} --cost" in row.hold_reason
    async with either.ledger() as ledger:
        assert [job.id for job in await ledger.jobs.find(hold_reason=True)] == [row.id]

    assert statuses(await either.run(film(a_shot(1), a_shot(2), budget_usd=4 * PRICE))) == ["stored", "stored"]
    assert either.paid == (2, 2)
    assert await spent(either) == Decimal(either.emulator.usage()["billed_usd"]) == 2 * PRICE


async def test_a_human_settles_it_and_the_books_follow(either: RecoveryHarness) -> None:
    quote(either, 999_999)
    await either.run(a_shot())
    job = await either.row()
    async with either.ledger() as ledger:
        after = await ledger.jobs.settle_cost(job.id, Decimal("0.75"))
        assert (after.state, after.actual_usd, after.disputed_usd, after.hold_reason) == (
            State.STORED,
            Decimal("0.75"),
            None,
            None,
        )
        assert (await ledger.jobs.history(job.id))[-1].detail == "cost settled as $0.75; emulator says $999999.00"
        with pytest.raises(InvalidTransition, match="no disputed cost"):
            await ledger.jobs.settle_cost(job.id, Decimal(1))
    assert await spent(either) == Decimal("0.75")
    assert [shot.cached for shot in (await either.run(a_shot())).shots] == [True]
    assert either.paid == (1, 1)


async def test_a_crash_before_the_download_leaves_it_to_the_next_sweep(either: RecoveryHarness) -> None:
    quote(either, 999_999)
    await either.interrupt(a_shot(), "completed")
    job = await either.row()
    assert (job.state, job.hold_reason, job.disputed_usd) == (State.COMPLETED, None, 999_999)
    assert [line.outcome for line in await either.collect()] == ["stored"]
    job = await either.row()
    assert job.state is State.STORED
    assert "$999999.00" in (job.hold_reason or "")
    assert (len(either.videos), either.paid) == (1, (1, 1))


async def test_a_run_that_waits_for_it_elsewhere_gets_the_video(harness: RecoveryHarness) -> None:
    quote(harness, 999_999)
    reports = await asyncio.gather(*(harness.run(a_shot()) for _ in range(3)))
    assert [statuses(report) for report in reports] == [["stored"]] * 3
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("cost", [-5, "NaN", "-Infinity", "Infinity", "much", True])
async def test_what_is_no_amount_does_not_count(harness: RecoveryHarness, cost: float | str | bool) -> None:
    quote(harness, cost)
    await harness.run(a_shot())
    job = await harness.row()
    assert (job.state, job.actual_usd, job.disputed_usd, job.hold_reason) == (State.STORED, None, None, None)
    assert await spent(harness) == Decimal(harness.emulator.usage()["billed_usd"]) == PRICE


@pytest.mark.parametrize(
    ("kind", "cost", "is_believed"),
    [
        (SoraProvider, 3.0, True),
        (SoraProvider, 3.01, False),
        (SoraProvider, 0, True),
        (SoraProvider, 1e30, False),
        (Unpriced, 100, True),
        (Unpriced, 100.01, False),
        (Free, 0.02, True),
        (Free, 1_000, False),
    ],
)
async def test_the_bound_is_ten_estimates_or_else_a_hundred_dollars(
    harness: RecoveryHarness, kind: type[SoraProvider], cost: float, is_believed: bool
) -> None:
    quote(harness, cost)
    assert statuses(await harness.run(a_shot(), kind=kind)) == ["stored"]
    job = await harness.row()
    assert (job.hold_reason is None) is (job.disputed_usd is None) is is_believed
    assert job.actual_usd == (Decimal(str(cost)) if is_believed else None)


async def test_the_bound_is_a_setting(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_VIDEO_MAX_COST_RATIO", "2")
    monkeypatch.setenv("PREFECT_VIDEO_MAX_UNPRICED_COST_USD", "5")
    assert Settings.from_environment().cost_bound.max_unpriced_usd == 5
    quote(harness, 0.61)
    await harness.run(a_shot())
    assert (await harness.row()).disputed_usd == Decimal("0.61")


@pytest.mark.parametrize("state", [State.FAILED, State.LOST])
async def test_nothing_is_bought_in_place_of_a_failure_whose_cost_is_disputed(
    either: RecoveryHarness, state: State
) -> None:
    await either.interrupt(a_shot(), "submitted")
    async with either.ledger() as ledger:
        job = await either.row()
        job = await ledger.jobs.record_ended(
            job.id, state, "it broke", actual_usd=Decimal(5_000), hold_reason="Buy again?"
        )
        assert (job.hold_reason or "").split("\n")[0] == "Buy again?"
        assert "$5000.00" in (job.hold_reason or "")
        assert statuses(await either.run(a_shot())) == ["held"]
        assert "$5000.00" in ((await ledger.jobs.unhold(job.id)).hold_reason or "")
        assert statuses(await either.run(a_shot())) == ["held"]
        assert either.emulator.usage()["accepted"] == 1
        await ledger.jobs.settle_cost(job.id, PRICE)
    assert statuses(await either.run(a_shot())) == ["stored"]
    assert either.paid[0] == 2


async def test_settling_the_cost_leaves_what_else_is_to_be_decided(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), "submitted")
    job = await harness.row()
    async with harness.ledger() as ledger:
        await ledger.jobs.record_ended(job.id, State.LOST, "gone", actual_usd=Decimal(5_000), hold_reason="Buy again?")
        assert (await ledger.jobs.settle_cost(job.id, PRICE)).hold_reason == "Buy again?"


async def test_a_later_answer_that_is_credible_ends_the_dispute(harness: RecoveryHarness) -> None:
    quote(harness, 999_999)
    await harness.interrupt(a_shot(), "completed")
    job = await harness.row()
    harness.emulator.clear_faults()
    async with harness.session() as session:
        generation = await session.provider.retrieve(job.generation_id or "")
        after = await session.ledger.jobs.record_completed(job.id, generation)
    assert (after.actual_usd, after.disputed_usd) == (PRICE, None)
    await harness.collect()
    assert (await harness.row()).hold_reason is None
