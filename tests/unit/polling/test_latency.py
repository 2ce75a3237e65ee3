"""What the ledger tells of past times, on both databases, and how it is kept at hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Ledger
from prefect_video.ledger.records import LatencyQuantiles, WorkKind
from prefect_video.ledger.tables import jobs_table
from prefect_video.polling.latency import LatencyCache
from prefect_video.shots import Shot
from tests.support.records import a_generation, fingerprint_of, submit_one

SHOT = Shot(id="shot", prompt="a cat", duration=5)
KIND = WorkKind("sora-2", 5, "1080p")


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    url = str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with await Ledger.open(url, migrate=True) as opened:
        yield opened


async def complete(ledger: Ledger, number: int, seconds: float, **changes: Any) -> None:
    """A generation that took so long."""
    job = await submit_one(ledger, number, **{"shot": SHOT, "fingerprint": fingerprint_of(number), **changes})
    await ledger.jobs.record_completed(job.id, a_generation(f"gen-{number}"))
    submitted_at = datetime.now(UTC) - timedelta(hours=1)
    async with ledger._database.writing() as connection:
        await connection.execute(
            update(jobs_table)
            .where(jobs_table.c.id == job.id)
            .values(submitted_at=submitted_at, completed_at=submitted_at + timedelta(seconds=seconds))
        )


async def test_times_by_kind(ledger: Ledger) -> None:
    for number in range(11):
        await complete(ledger, number, 100 + number)
    for number in range(20, 25):
        await complete(ledger, number, 300, shot=SHOT.model_copy(update={"resolution": "720p"}))
    for number in range(30, 34):
        await complete(ledger, number, 500, shot=SHOT.model_copy(update={"duration": 6}))
    await complete(ledger, 40, 1, provider="other")
    await submit_one(ledger, 50)
    assert await ledger.jobs.latency("sora") == {
        KIND: LatencyQuantiles(count=11, early_seconds=101, median_seconds=105, late_seconds=109),
        WorkKind("sora-2", 5, "720p"): LatencyQuantiles(
            count=5, early_seconds=300, median_seconds=300, late_seconds=300
        ),
    }
    assert await ledger.jobs.latency("sora", window=timedelta()) == {}
    assert await ledger.jobs.latency("sora", at_most=4) == {}


async def test_the_newest_of_a_kind_tell_all(ledger: Ledger) -> None:
    for number in range(60):
        await complete(ledger, number, 300 if number < 10 else 100)
    times = (await ledger.jobs.latency("sora"))[KIND]
    assert (times.count, times.late_seconds) == (50, 100)


async def test_one_query_serves_all_and_is_repeated_when_it_is_old(ledger: Ledger) -> None:
    for number in range(5):
        await complete(ledger, number, 100)
    queries = 0
    read = ledger.jobs.latency

    async def counted(provider: str) -> dict[WorkKind, LatencyQuantiles]:
        nonlocal queries
        queries += 1
        return await read(provider)

    ledger.jobs.latency = counted  # type: ignore[method-assign, assignment]
    learned = LatencyCache(ledger, "sora")
    times = await asyncio.gather(*(learned.get(SHOT) for _ in range(100)))
    assert (queries, {quantiles.median_seconds for quantiles in times if quantiles}) == (1, {100})
    assert await learned.get(SHOT.model_copy(update={"duration": 9})) is None
    hasty = LatencyCache(ledger, "sora", refresh_seconds=0)
    assert await hasty.get(SHOT) == await hasty.get(SHOT)
    assert queries == 3


async def test_a_ledger_that_does_not_answer_stops_nobody(ledger: Ledger) -> None:
    async def fail(provider: str) -> dict[WorkKind, LatencyQuantiles]:
        raise LedgerUnavailable("locked")

    ledger.jobs.latency = fail  # type: ignore[method-assign, assignment]
    assert await LatencyCache(ledger, "sora").get(SHOT) is None
