"""Experiments against the emulator: what they find, what they pay by the provider's own count, and what is kept."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.errors import BudgetExceeded, InvalidInput
from prefect_video.experiments import (
    RateLimit,
    RateLimitMeasurement,
    ResponseTime,
    ResponseTimeMeasurement,
    WebhookDelivery,
    WebhookMeasurement,
    draw_chart,
    plan_experiment,
    publish_measurement,
    run_experiment,
)
from prefect_video.experiments.response_time import TimedVideo
from tests.support.polling_fixtures import MakeEmulator, SessionOpener


def assert_drawn(uri: str | None, picture: bytes | None) -> None:
    """Assert that a measurement's chart is published as a PNG."""
    assert uri is not None
    assert re.fullmatch(r".*/experiment-[a-z-]+/measurement\.png", uri)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


async def test_time_grows_with_length_and_a_second_run_pays_nothing(
    open_session: SessionOpener, crowded: MakeEmulator, tmp_path: Path
) -> None:
    # Over a second each: an end that a busy machine notices late shows no time.
    experiment = ResponseTime(durations=(3, 6, 9), resolution="480p", budget_usd=Decimal(100))
    with crowded(speed=15, times="fixed:8") as emulator:
        async with open_session(emulator) as session:
            planned = await plan_experiment(session, experiment)
            assert planned.buys == 3
            found = await run_experiment(session, experiment)
            assert isinstance(found, ResponseTimeMeasurement)
            assert [video.duration_seconds for video in found.videos] == [3, 6, 9]
            assert all(video.seconds > 0 for video in found.videos)
            assert not found.failures
            assert found.cost_usd == planned.plan.cost_usd == Decimal(emulator.usage()["billed_usd"])
            assert_drawn(*await publish_measurement(session.store, found))
        async with open_session(emulator) as session:
            assert (await plan_experiment(session, experiment)).buys == 0
            again = await run_experiment(session, experiment)
            assert isinstance(again, ResponseTimeMeasurement)
            assert again.reused
            assert again.videos == found.videos
            assert again.cost_usd == 0
            # Another question is not answered by it, though what is stored is used for it.
            more = await run_experiment(session, experiment.model_copy(update={"durations": (3, 6, 9, 10)}))
            assert not more.reused
        assert emulator.usage()["billed"] == 4


def test_the_line_is_fitted_to_the_times() -> None:
    videos = tuple(TimedVideo(job_id="", duration_seconds=length, seconds=4.0 + 8 * length) for length in (5, 10, 20))
    found = ResponseTimeMeasurement(
        project="p",
        provider="sora",
        model="sora-2",
        digest="",
        measured_at=datetime.now(UTC),
        videos=videos,
        expected_ratio=(6, 12),
    )
    assert found.fit == pytest.approx((8.0, 4.0))
    assert found.ratio == pytest.approx((3 * 4 + 8 * 35) / 35)
    assert "8.0 s for each second and 4.0 s besides" in found.summary


async def test_the_budget_is_the_ledgers(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    experiment = ResponseTime(durations=(5, 10), resolution="480p", budget_usd=Decimal("0.10"))
    with crowded() as emulator:
        async with open_session(emulator) as session:
            with pytest.raises(BudgetExceeded, match="experiment-response-time"):
                await run_experiment(session, experiment)
        assert emulator.usage()["billed"] == 0


async def test_the_boundary_of_generations_at_once(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    experiment = RateLimit(levels=(2, 4, 6, 8), budget_usd=Decimal(100))
    # Each takes longer than all submits together, so that all are unfinished at once.
    with crowded(capacity=5, speed=10, times="fixed:8") as emulator:
        # The plan of the account says less than the provider really allows.
        async with open_session(emulator, account_slots=3) as session:
            found = await run_experiment(session, experiment)
            assert isinstance(found, RateLimitMeasurement)
            assert [(level.at_once, level.accepted, level.refused) for level in found.levels] == [
                (2, 2, 0),
                (4, 4, 0),
                (6, 5, 1),
            ]
            assert found.boundary == 5
            assert [(seen.error, seen.count) for seen in found.errors] == [("RateLimited", 1)]
            assert not found.failures
            assert found.cost_usd == Decimal(emulator.usage()["billed_usd"])
            # What was lifted is in force again, and the refusal that was looked for slows down no other run.
            assert session.account_slots == 3
            assert (await session.ledger.accounts.status(session.provider.account.id, slots=10)).slots == 10
            assert_drawn(*await publish_measurement(session.store, found))
            assert (await run_experiment(session, experiment)).reused
        assert emulator.usage()["billed"] == 5


async def test_webhooks_are_counted_lost_and_twice(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    experiment = WebhookDelivery(count=4, port=0, grace_seconds=1, budget_usd=Decimal(100))
    with crowded(speed=100, webhook_retry_seconds=0) as emulator:
        emulator.add_fault(operation="webhook", kind="drop", times=None, match={"prompt": "test 1"})
        emulator.add_fault(operation="webhook", kind="duplicate", times=None, match={"prompt": "test 2"})
        emulator.add_fault(operation="webhook", kind="forged", times=None, match={"prompt": "test 3"})
        async with open_session(emulator) as session:
            found = await run_experiment(session, experiment)
            assert isinstance(found, WebhookMeasurement)
            assert len(found.announcements) == 4
            assert (found.lost, found.duplicates) == (1, 1)
            assert found.unverified > 0
            assert len(found.delays) == 3
            assert 0 <= found.delays[-1] < 5
            assert found.cost_usd == Decimal(emulator.usage()["billed_usd"])
            assert session.settings.webhook_url is None
            assert_drawn(*await publish_measurement(session.store, found))
            assert (await run_experiment(session, experiment)).reused
        assert emulator.usage()["billed"] == 4


async def test_webhooks_of_an_earlier_run_are_not_measured(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    experiment = WebhookDelivery(count=2, port=0, grace_seconds=0, budget_usd=Decimal(100))
    with crowded(speed=100) as emulator:
        async with open_session(emulator) as session:
            await run_experiment(session, experiment)
            # Its measurement is lost with its process; what was paid is not.
            again = await run_experiment(session, experiment)
            assert "2 generations of an earlier run" in again.failures[0]
            assert again.cost_usd == 0
        assert emulator.usage()["billed"] == 2


def test_delays_have_percentiles() -> None:
    ended = [{"job_id": str(n), "deliveries": 1, "delay_seconds": n / 100} for n in range(101)]
    found = WebhookMeasurement.model_validate(
        {
            "project": "p",
            "provider": "x",
            "model": "m",
            "digest": "",
            "measured_at": datetime.now(UTC),
            "announcements": ended,
        }
    )
    assert found.percentile(50) == pytest.approx(0.5)
    assert found.percentile(95) == pytest.approx(0.95)


async def test_a_provider_elsewhere_needs_a_public_address(open_session: SessionOpener, crowded: MakeEmulator) -> None:
    with crowded() as emulator:
        async with open_session(emulator) as session:
            session.provider.account = replace(session.provider.account, base_url="https://api.example.com/v1")
            with pytest.raises(InvalidInput, match="--url"):
                await run_experiment(session, WebhookDelivery(count=1, resolution="480p"))


def test_without_matplotlib_there_is_no_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ResponseTimeMeasurement(
        project="p",
        provider="x",
        model="m",
        digest="",
        measured_at=datetime.now(UTC) - timedelta(days=1),
        videos=(),
        expected_ratio=(6, 12),
    )
    assert draw_chart(found.chart()) is not None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_chart(found.chart()) is None
