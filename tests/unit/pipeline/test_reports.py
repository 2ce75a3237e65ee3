"""What a run says it paid: what it sent itself, whether or not there is a video, and nothing of earlier runs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from prefect_video.errors import LedgerUnavailable, StoreError
from prefect_video.ledger.jobs import Jobs
from prefect_video.storage.local import LocalStore
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import SLOW, OpenHarness

PRICE = Decimal("0.30")


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def publish_all(store: LocalStore, files: object) -> list[str]:
        raise StoreError("store: the disk is full")

    monkeypatch.setattr(LocalStore, "publish_all", publish_all)


async def test_a_shot_that_was_paid_and_not_stored_is_booked_in_the_run_that_sent_it(harness: RecoveryHarness) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch)
        first = await harness.run(a_shot())
    assert (statuses(first), first.cost_usd) == (["failed"], PRICE)

    second = await harness.run(a_shot())
    assert (statuses(second), second.cost_usd, second.shots[0].cached) == (["stored"], Decimal(0), False)
    assert (await harness.run(a_shot())).cost_usd == 0
    assert harness.paid == (1, 1)


async def test_a_refused_shot_costs_nothing_and_a_twin_is_paid_once(harness: RecoveryHarness) -> None:
    report = await harness.run(
        film(a_shot(1, prompt="the [policy] sea"), a_shot(2), a_shot(3, prompt=a_shot(2).prompt))
    )
    assert statuses(report) == ["failed", "stored", "stored"]
    assert [shot.cost_usd for shot in report.shots] == [0, PRICE, 0]


async def test_what_an_interrupted_run_sent_is_not_paid_for_by_the_next(open_harness: OpenHarness) -> None:
    harness = open_harness(**SLOW)
    await harness.interrupt(a_shot(), "submitted")
    harness.emulator.change_speed(500)
    report = await harness.run(film(a_shot(1), a_shot(2)))
    assert [shot.cost_usd for shot in report.shots] == [0, PRICE]


async def test_a_ledger_that_fails_at_the_end_leaves_the_report(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(jobs: Jobs, **filters: object) -> object:
        raise LedgerUnavailable("the ledger is gone")

    monkeypatch.setattr(Jobs, "find", find)
    # The ledger is read only where some shot was not made at once.
    report = await harness.run(film(a_shot(1), a_shot(2, prompt="the [policy] sea")))
    assert (statuses(report), report.shots[0].cost_usd) == (["stored", "failed"], None)
    report = await harness.run(a_shot(3))
    assert (statuses(report), report.shots[0].cost_usd) == (["stored"], PRICE)
