"""The limit of an account: what a 429 leaves of it, who waits for it and how."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_video.errors import QuotaExhausted
from prefect_video.generations import Generation
from prefect_video.ledger import Ledger, State
from prefect_video.ledger import account_limits as accounts
from prefect_video.pipeline.project_run import run_project
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session.session import Studio
from tests.support.records import claim_one
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenWorkshop

ACCOUNT = "sora-1"


@asynccontextmanager
async def all_slots_taken(workshop: Workshop, studio: Studio) -> AsyncIterator[None]:
    """Another process has the only slot, until the end of the block."""
    async with await Ledger.open(workshop.ledger_url) as other:
        holder = await claim_one(other, account=studio.provider.account.id)
        assert await other.take_slot(holder.id, slots=1)
        yield
        await other.release(holder.id, "done")


async def until_queued(workshop: Workshop, count: int = 1) -> None:
    """Until so many rows wait for a slot."""
    with closing(sqlite3.connect(workshop.folder / "ledger.db")) as books:
        async with asyncio.timeout(20):
            while books.execute("SELECT count(waiting_since) FROM generations").fetchone() != (count,):
                await asyncio.sleep(0.01)


async def test_a_429_halves_a_known_limit_however_few_are_under_way(ledger: Ledger) -> None:
    entry = await claim_one(ledger)
    await ledger.take_slot(entry.id, slots=10)
    assert await ledger.throttle(ACCOUNT, slots=10) == 5


async def test_a_429_halves_what_an_earlier_one_has_grown_to(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_ONE_429_SECONDS", 0.0)
    assert [await ledger.throttle(ACCOUNT, slots=8) for _ in range(3)] == [4, 2, 1]
    monkeypatch.setattr(accounts, "CREEP_SECONDS", 1e-6)
    assert await ledger.throttle(ACCOUNT, slots=8) == 4


async def test_an_open_breaker_is_waited_for_until_one_may_try(workshop: Workshop) -> None:
    async with workshop.studio() as studio:
        standing = await studio.ledger.record_trouble(studio.provider.account.id, threshold=1, open_seconds=0.7)
        report = await run_project(studio, film(a_shot(1), a_shot(2), a_shot(3)))
        assert statuses(report) == ["stored"] * 3
        assert (await studio.ledger.standing(studio.provider.account.id)).breaker == "closed"
    sent = [row.sent_at for row in await workshop.rows()]
    assert standing.open_until is not None
    assert min(moment for moment in sent if moment) >= standing.open_until
    assert workshop.emulator.books()["submitted"] == 3


async def test_or_fails_at_once_by_choice(workshop: Workshop) -> None:
    async with workshop.studio(on_open="fail") as studio:
        await studio.ledger.record_trouble(studio.provider.account.id, threshold=1, open_seconds=60)
        report = await run_project(studio, film(a_shot(1), a_shot(2)))
        assert statuses(report) == ["failed"] * 2
        assert "in trouble" in str(report.shots[0].error)
        assert await studio.ledger.unfinished() == []
    assert workshop.emulator.books()["submitted"] == 0


async def test_a_breaker_that_opens_meanwhile_holds_back_those_in_the_queue(workshop: Workshop) -> None:
    async with workshop.studio(on_open="fail", account_slots=1) as studio, all_slots_taken(workshop, studio):
        run = asyncio.create_task(run_project(studio, film(a_shot())))
        await until_queued(workshop)
        await studio.ledger.record_trouble(studio.provider.account.id, threshold=1, open_seconds=60)
        async with asyncio.timeout(20):
            assert statuses(await run) == ["failed"]
    assert workshop.emulator.books()["submitted"] == 0


async def test_a_try_that_is_cancelled_in_the_queue_is_left_to_others(workshop: Workshop) -> None:
    async with workshop.studio(account_slots=1) as studio, all_slots_taken(workshop, studio):
        account = studio.provider.account.id
        await studio.ledger.record_trouble(account, threshold=1, open_seconds=0)
        run = asyncio.create_task(run_project(studio, film(a_shot())))
        await until_queued(workshop)
        assert not await studio.ledger.probe(account)
        run.cancel()
        await asyncio.wait([run])
        assert await studio.ledger.probe(account)


async def test_time_in_the_queue_is_not_time_turned_away(workshop: Workshop) -> None:
    patience = 1.2
    workshop.emulator.add_fault(operation="submit", kind="rate_limited", retry_after=0.1)
    async with workshop.studio(account_slots=1, submit_patience_seconds=patience) as studio:
        async with all_slots_taken(workshop, studio):
            run = asyncio.create_task(run_project(studio, film(a_shot())))
            await until_queued(workshop)
            await asyncio.sleep(patience)
        assert statuses(await run) == ["stored"]
    assert workshop.emulator.books()["submitted"] == 2


async def test_a_high_priority_project_overtakes_a_low_one_that_waits(workshop: Workshop) -> None:
    low = film(a_shot(1), a_shot(2), name="low", priority="low")
    high = film(a_shot(9), name="high", priority="high")
    async with workshop.studio(account_slots=1) as first, workshop.studio(account_slots=1) as second:
        async with all_slots_taken(workshop, first):
            runs = [asyncio.create_task(run_project(first, low))]
            await until_queued(workshop)
            runs.append(asyncio.create_task(run_project(second, high)))
            await until_queued(workshop, count=2)
        assert [set(statuses(report)) for report in await asyncio.gather(*runs)] == [{"stored"}] * 2
    rows = [row for row in await workshop.rows() if row.state is State.STORED]
    rows.sort(key=lambda row: row.sent_at or datetime.now(UTC))
    assert [row.project for row in rows] == ["high", "low", "low"]
    assert workshop.emulator.books()["peak_concurrency"] == 1


async def test_it_overtakes_within_one_process_too(workshop: Workshop) -> None:
    low = film(a_shot(1), a_shot(2), a_shot(3), name="low", priority="low")
    high = film(a_shot(9), name="high", priority="high")
    async with workshop.studio(account_slots=1) as studio:
        async with studio.slots.of(1), asyncio.timeout(20):
            runs = [asyncio.create_task(run_project(studio, low))]
            while len(studio.slots._waiting) < 3:
                await asyncio.sleep(0.01)
            runs.append(asyncio.create_task(run_project(studio, high)))
            while len(studio.slots._waiting) < 4:
                await asyncio.sleep(0.01)
        await asyncio.gather(*runs)
    rows = sorted(await workshop.rows(), key=lambda row: row.sent_at or datetime.now(UTC))
    assert [row.project for row in rows] == ["high", "low", "low", "low"]


async def test_a_used_up_quota_is_said_and_not_asked_for_again(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(monthly_quota=1)
    await workshop.run(a_shot(1))
    report = await workshop.run(a_shot(2))
    assert "quota" in str(report.shots[0].error)
    assert workshop.emulator.books()["submitted"] == 2
    later = await workshop.run(film(*(a_shot(number) for number in range(3, 9))))
    assert all("quota is used up until" in str(shot.error) for shot in later.shots)
    assert workshop.emulator.books()["submitted"] == 2
    assert [row.state for row in await workshop.rows()].count(State.RELEASED) == 7


class Undated(SoraProvider):
    """Does not say until when a quota is used up."""

    async def submit(self, *shot: Any, **how: Any) -> Generation:
        try:
            return await super().submit(*shot, **how)
        except QuotaExhausted as error:
            error.retry_after = None
            raise


async def test_a_quota_without_a_date_costs_one_submit_a_run(open_workshop: OpenWorkshop) -> None:
    workshop = open_workshop(monthly_quota=0)
    wanted = film(*(a_shot(number) for number in range(5)))
    for run in (1, 2):
        report = await workshop.run(wanted, kind=Undated, max_in_flight=1)
        assert all("quota" in str(shot.error) for shot in report.shots)
        assert workshop.emulator.books()["submitted"] == run
