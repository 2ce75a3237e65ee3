"""What past generations teach: read from both databases, learned at once, forgotten where the provider has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.errors import LedgerUnavailable
from prefect_video.generations import Generation, Status, find_hinted_seconds
from prefect_video.ledger import CompletionTime, Ledger, WorkKind
from prefect_video.ledger.tables import jobs_table
from prefect_video.polling.latency import LatencyCache, LatencyForecast, LatencyHistory
from prefect_video.shots import Shot
from tests.support.records import a_generation, fingerprint_of, submit_one

SHOT = Shot(id="shot", prompt="a cat", duration=5)
KIND = WorkKind("sora-2", 5, "1080p")
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    url = str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True) as opened:
        yield opened


async def complete(ledger: Ledger, number: int, seconds: float | None, **changes: Any) -> None:
    """A generation that took so long, and was noticed half an hour later."""
    job = await submit_one(ledger, number, **{"shot": SHOT, "fingerprint": fingerprint_of(number), **changes})
    await ledger.jobs.record_completed(job.id, a_generation(f"gen-{number}", seconds_taken=seconds))
    submitted_at = datetime.now(UTC) - timedelta(hours=1)
    async with ledger._database.writing() as connection:
        await connection.execute(
            update(jobs_table)
            .where(jobs_table.c.id == job.id)
            .values(submitted_at=submitted_at, completed_at=submitted_at + timedelta(minutes=30))
        )


def taken(times: Sequence[CompletionTime]) -> list[float]:
    return [time.seconds for time in times]


def forecast(history: LatencyHistory, hint: float | None = None) -> LatencyForecast:
    return LatencyForecast(history, hinted_seconds=hint, usual_seconds=(60, 120))


async def test_times_by_kind(ledger: Ledger) -> None:
    for number in range(11):
        await complete(ledger, number, 100 + number)
    for number in range(20, 25):
        await complete(ledger, number, 300, shot=SHOT.model_copy(update={"resolution": "720p"}))
    await complete(ledger, 40, 1, provider="other")
    # How long this one took is not known: it was taken up again after a crash.
    await complete(ledger, 41, None)
    await submit_one(ledger, 50)
    times = await ledger.jobs.latency("sora")
    assert {kind: taken(of_kind) for kind, of_kind in times.items()} == {
        KIND: list(range(110, 99, -1)),
        WorkKind("sora-2", 5, "720p"): [300] * 5,
    }
    assert await ledger.jobs.latency("sora", window=timedelta()) == {}
    assert sum(map(len, (await ledger.jobs.latency("sora", at_most=4)).values())) == 4


async def test_the_newest_of_a_kind_tell_all(ledger: Ledger) -> None:
    for number in range(60):
        await complete(ledger, number, 300 if number < 10 else 100)
    assert taken((await ledger.jobs.latency("sora"))[KIND]) == [100] * 50


async def test_one_query_serves_all_and_is_repeated_when_it_is_old(ledger: Ledger) -> None:
    for number in range(5):
        await complete(ledger, number, 100)
    queries = 0
    read = ledger.jobs.latency

    async def counted(provider: str) -> dict[WorkKind, tuple[CompletionTime, ...]]:
        nonlocal queries
        queries += 1
        return await read(provider)

    ledger.jobs.latency = counted  # type: ignore[method-assign, assignment]
    learned = LatencyCache(ledger, "sora")
    histories = await asyncio.gather(*(learned.history(SHOT) for _ in range(100)))
    assert (queries, {history.median_seconds() for history in histories}) == (1, {100})
    assert (await learned.history(SHOT.model_copy(update={"duration": 9}))).median_seconds() is None
    hasty = LatencyCache(ledger, "sora", refresh_seconds=0)
    history = await hasty.history(SHOT)
    for number in range(10, 20):
        await complete(ledger, number, 50)
    # The forecasts that exist already follow.
    assert await hasty.history(SHOT) is history
    assert (queries, history.median_seconds()) == (3, 50)


async def test_a_ledger_that_does_not_answer_stops_no_shot(ledger: Ledger) -> None:
    async def fail(provider: str) -> dict[WorkKind, tuple[CompletionTime, ...]]:
        raise LedgerUnavailable("locked")

    ledger.jobs.latency = fail  # type: ignore[method-assign, assignment]
    assert (await LatencyCache(ledger, "sora").history(SHOT)).estimates() == ()


def test_the_first_end_teaches_the_others() -> None:
    history = LatencyHistory()
    other = forecast(history)
    assert other.current().ended_by(12) < 0.3
    forecast(history).record_end(10)
    assert other.current().ended_by(8) < 0.1
    assert other.current().ended_by(12) > 0.8


def test_a_provider_that_has_changed_is_believed_soon() -> None:
    history = LatencyHistory([CompletionTime(seconds=100)] * 30)
    for _ in range(3):
        forecast(history).record_end(20)
    assert forecast(history).current().ended_by(25) > 0.4


@pytest.mark.parametrize(("took", "least", "most"), [(31, 0.9, 1.0), (100, 0.0, 0.5)])
def test_a_hint_is_believed_as_far_as_it_was_right(took: float, least: float, most: float) -> None:
    history = LatencyHistory([CompletionTime(seconds=took, hinted_seconds=31)] * 10)
    assert least <= history.hint_trust() <= most
    assert history.hint_trust() - 0.05 <= forecast(history, 31).current().ended_by(40) <= most


@pytest.mark.parametrize(
    ("hint", "submitted_after", "expected"),
    [(31, 0.0, 31), (31, 0.5, 30.5), (31, 3 * 3600.0, 31), (-5, 0.0, 0), (None, 0.0, None)],
)
def test_a_hint_is_read_whatever_the_clocks_say(
    hint: float | None, submitted_after: float, expected: float | None
) -> None:
    estimated = None if hint is None else NOW + timedelta(seconds=hint)
    generation = Generation(
        id="g", provider="fake", status=Status.QUEUED, created_at=NOW, estimated_completion_at=estimated
    )
    assert find_hinted_seconds(generation, NOW + timedelta(seconds=submitted_after)) == expected


@pytest.mark.parametrize("created_by", [-600, 0, 600])
@pytest.mark.parametrize("estimated_by", [-600, 0, 600])
def test_a_hint_by_any_clock_is_not_later_than_it_was_meant(created_by: float, estimated_by: float) -> None:
    generation = Generation(
        id="g",
        provider="fake",
        status=Status.QUEUED,
        created_at=NOW + timedelta(seconds=created_by),
        estimated_completion_at=NOW + timedelta(seconds=31 + estimated_by),
    )
    seconds = find_hinted_seconds(generation, NOW)
    assert seconds is not None
    one_clock = estimated_by in (0, created_by)
    assert seconds == 31 if one_clock else seconds in (0, 631, 1231)
