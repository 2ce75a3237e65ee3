"""What machines that share a PostgreSQL server must not do to each other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.engine import make_url

from prefect_video.cli.operation_checks import _check_connections
from prefect_video.ledger import Ledger, database
from prefect_video.ledger import leases as owners
from prefect_video.ledger.tables import owners as owners_table
from tests.support.records import claim_one


@pytest.fixture
async def url(postgres_url: str) -> str:
    return postgres_url


async def test_no_process_waits_indefinitely_for_a_stalled_one(ledger: Ledger) -> None:
    for connect in (ledger._database.reading, ledger._database.writing, ledger._database.writing_immediately):
        async with connect() as connection:
            settings = [
                (await connection.execute(text(f"SHOW {setting}"))).scalar()
                for setting in ("lock_timeout", "idle_in_transaction_session_timeout")
            ]
        assert settings == ["30s", "1min"]


async def test_a_heart_beats_however_busy_its_process_is(ledger: Ledger) -> None:
    async with AsyncExitStack() as busy:
        for _ in range(ledger._database.parallel_writes):
            await busy.enter_async_context(ledger._database.writing())
        async with asyncio.timeout(300):
            await ledger._owner.heartbeat()


async def test_a_clock_that_is_wrong_makes_no_owner_dead(
    ledger: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is the server's clock, on both sides."""
    monkeypatch.setattr(owners, "_lock_held", lambda owner_id: None)
    job = await claim_one(ledger)
    async with ledger._database.writing() as connection:
        await connection.execute(update(owners_table).values(heartbeat_at=datetime(2020, 1, 1, tzinfo=UTC)))

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(hours=1)

    with monkeypatch.context() as wrong:
        wrong.setattr(database, "datetime", Ahead)
        await ledger._owner.heartbeat()
        assert await other.claims.take_over(job.id) is None
        assert abs(await ledger.now() - datetime.now(UTC)) < timedelta(minutes=5)
    async with ledger._database.reading() as connection:
        beaten = await connection.execute(
            select(owners_table.c.heartbeat_at).where(owners_table.c.id == ledger.owner_id)
        )
        assert abs(beaten.scalar_one() - datetime.now(UTC)) < timedelta(minutes=5)


async def test_the_pool_of_all_processes_is_compared_with_what_the_server_allows(
    ledger: Ledger, postgres_url: str
) -> None:
    usage = await ledger.connection_usage()
    assert usage is not None
    assert usage.fits
    assert (usage.each, usage.processes) == (7, 1)
    assert 0 < usage.own <= usage.open <= usage.allowed
    url = make_url(postgres_url).update_query_dict({"pool_size": str(usage.allowed), "max_overflow": "1"})
    async with await Ledger.open(url.render_as_string(hide_password=False)) as greedy:
        found = await greedy.connection_usage()
        (check,) = await _check_connections(greedy)
    assert found is not None
    assert (found.each, found.processes) == (usage.allowed + 3, 2)
    assert not found.fits
    assert not check.ok
    assert "max_connections" in check.fix
