"""Waiting for jobs that another process changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url

from prefect_video.ledger import Ledger, State
from prefect_video.ledger.change_feed import open_change_feed
from prefect_video.polling.job_watcher import JobWatcher
from tests.support.postgres import PostgresServer
from tests.support.records import a_generation, claim_one, submit_one

SOON = 8.0
"""Seconds within which a change must be noticed on any machine; the safety poll, at 15 s, comes later. The benchmark
measures how much faster it is on a quiet one."""


@pytest.fixture
async def rows(ledger: Ledger) -> AsyncIterator[JobWatcher]:
    """Open a watcher of the ledger's jobs."""
    watch = JobWatcher(ledger)
    yield watch
    await watch.aclose()


async def wait_soon(waiting: asyncio.Task[object]) -> object:
    """Return a task's result, which must come before the safety poll."""
    async with asyncio.timeout(SOON):
        return await waiting


async def wait_until_watching(rows: JobWatcher) -> None:
    """Wait until the watcher has read the jobs, so that a later change is noticed as a change."""
    async with asyncio.timeout(60):
        while rows._unseen or rows._task is None:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


async def test_an_end_is_noticed_before_the_safety_poll(ledger: Ledger, other: Ledger, rows: JobWatcher) -> None:
    jobs = [await submit_one(ledger, number) for number in range(1, 4)]
    waiting = [asyncio.create_task(rows.wait_for_change(job.id)) for job in jobs]
    await wait_until_watching(rows)
    await other.jobs.record_completed(jobs[0].id, a_generation("gen-1"))
    moved = await wait_soon(waiting[0])
    assert moved.state is State.COMPLETED
    assert not waiting[1].done()
    await other.jobs.record_ended(jobs[1].id, State.FAILED, "the provider failed", actual_usd=None)
    assert (await wait_soon(waiting[1])).state is State.FAILED
    waiting[2].cancel()


async def test_an_end_before_the_wait_begins_is_noticed(ledger: Ledger, other: Ledger, rows: JobWatcher) -> None:
    first, second = await submit_one(ledger, 1), await submit_one(ledger, 2)
    waiting = asyncio.create_task(rows.wait_for_change(first.id))
    await wait_until_watching(rows)
    await other.jobs.record_completed(second.id, a_generation("gen-2"))
    await asyncio.sleep(0.3)
    assert (await wait_soon(asyncio.create_task(rows.wait_for_change(second.id)))).state is State.COMPLETED
    waiting.cancel()


async def test_a_joined_job_is_watched_too(ledger: Ledger, other: Ledger, rows: JobWatcher) -> None:
    flagged, freed = await claim_one(other, 1), await claim_one(other, 2)
    waiting = [asyncio.create_task(rows.wait_for_owner_or_end(job.id)) for job in (flagged, freed)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    await other.jobs.hold(flagged.id, "look at it")
    assert (await wait_soon(waiting[0])).hold_reason == "look at it"
    await other.claims.release_ownership([freed.id])
    assert (await wait_soon(waiting[1])).owner is None


async def test_no_query_is_sent_while_nothing_changes(
    ledger: Ledger, rows: JobWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await submit_one(ledger)
    waiting = asyncio.create_task(rows.wait_for_change(job.id))
    await wait_until_watching(rows)
    queries = 0
    left_state = ledger.jobs.left_state

    async def counting(*args: object, **kwargs: object) -> object:
        nonlocal queries
        queries += 1
        return await left_state(*args, **kwargs)

    monkeypatch.setattr(ledger.jobs, "left_state", counting)
    await asyncio.sleep(1.2)
    if queries:  # PostgreSQL may notify of the submit itself only now
        queries = 0
        await asyncio.sleep(1.2)
    assert queries == 0
    await ledger.jobs.record_completed(job.id, a_generation("gen-1"))
    await wait_soon(waiting)


async def test_a_broken_connection_is_opened_again(postgres_url: str, postgres_server: PostgresServer) -> None:
    async with await Ledger.open(postgres_url, migrate=True) as ledger:
        job = await submit_one(ledger)
        changes = open_change_feed(ledger._database)
        assert await changes.wait(0.1) is None, "changes before the connection are unknown"
        assert await changes.wait(0.1) == frozenset()
        postgres_server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{make_url(postgres_url).database}' AND query LIKE 'LISTEN%'"
        )
        async with asyncio.timeout(60):
            while await changes.wait(0.1) is not None:
                pass
            while await changes.wait(0.1) is None:
                pass
        await ledger.jobs.record_completed(job.id, a_generation("gen-1"))
        assert await changes.wait(20) == {job.id}
        await changes.aclose()


async def test_a_thousand_waiters_share_one_query(ledger: Ledger, other: Ledger, rows: JobWatcher) -> None:
    job = await submit_one(ledger)
    waiting = [asyncio.create_task(rows.wait_for_change(job.id)) for _ in range(1000)]
    await wait_until_watching(rows)
    began = datetime.now(UTC)
    await other.jobs.record_completed(job.id, a_generation("gen-1"))
    states = {(await task).state for task in waiting}
    assert states == {State.COMPLETED}
    assert (datetime.now(UTC) - began).total_seconds() < SOON
