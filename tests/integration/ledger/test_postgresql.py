"""What machines that share a PostgreSQL server must not do to each other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

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
        for _ in range(database._CONNECTIONS):
            await busy.enter_async_context(ledger._database.writing())
        async with asyncio.timeout(10):
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
