"""Group commit: writes that wait for one another share a commit, and each fails alone."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.errors import InvalidTransition, LedgerUnavailable
from prefect_video.ledger.database import Database
from prefect_video.ledger.group_commit import MOST_AT_ONCE

SCHEMA = (
    "CREATE TABLE shots (id INTEGER PRIMARY KEY)",
    "CREATE TABLE takes (shot INTEGER REFERENCES shots (id) DEFERRABLE INITIALLY DEFERRED)",
)


def committed(path: Path) -> set[int]:
    """Read the shots as another process sees them."""
    with sqlite3.connect(path) as connection:
        return {number for (number,) in connection.execute("SELECT id FROM shots")}


async def write_shot(database: Database, number: int) -> None:
    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO shots VALUES (:number)"), {"number": number})


async def test_writes_that_wait_share_a_commit_and_return_after_it(database: Database, ledger_file: Path) -> None:
    commits = 0

    @event.listens_for(database.engine.sync_engine, "commit")
    def count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    async def write(number: int) -> None:
        await write_shot(database, number)
        assert number in committed(ledger_file)

    await asyncio.gather(*(write(number) for number in range(2 * MOST_AT_ONCE)))
    assert committed(ledger_file) == set(range(2 * MOST_AT_ONCE))
    assert commits == 2


async def test_a_write_that_fails_is_taken_back_alone(database: Database, ledger_file: Path) -> None:
    async def write_and_fail() -> None:
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO shots VALUES (98)"))
            raise ValueError("its caller's own error")

    outcomes = await asyncio.gather(
        write_shot(database, 1),
        write_and_fail(),
        write_shot(database, 2),
        write_shot(database, 1),
        write_shot(database, 3),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        ValueError,
        type(None),
        InvalidTransition,
        type(None),
    ]
    assert committed(ledger_file) == {1, 2, 3}


async def test_a_commit_that_fails_fails_all_that_share_it_and_none_after_it(
    database: Database, ledger_file: Path
) -> None:
    async def write_orphan() -> None:
        async with database.writing() as connection:
            # Found at the commit only.
            await connection.execute(text("INSERT INTO takes VALUES (77)"))

    shared = [asyncio.create_task(write_shot(database, number)) for number in (1, 2)]
    shared.append(asyncio.create_task(write_orphan()))
    outcomes = await asyncio.gather(*shared, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InvalidTransition] * 3
    assert committed(ledger_file) == set()
    await write_shot(database, 4)
    assert committed(ledger_file) == {4}


async def test_a_caller_that_is_cancelled_leaves_the_others_whole(database: Database, ledger_file: Path) -> None:
    has_turn = asyncio.Event()

    async def wait_in_turn() -> None:
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO shots VALUES (99)"))
            has_turn.set()
            await asyncio.Event().wait()

    before = asyncio.create_task(write_shot(database, 1))
    cancelled = asyncio.create_task(wait_in_turn())
    after = [asyncio.create_task(write_shot(database, number)) for number in (2, 3)]
    await has_turn.wait()
    after[0].cancel()
    cancelled.cancel()
    outcomes = await asyncio.gather(before, cancelled, *after, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), *[asyncio.CancelledError] * 2, type(None)]
    assert committed(ledger_file) == {1, 3}


async def test_the_statements_of_writes_that_wait_share_a_visit_and_each_fails_alone(
    database: Database, ledger_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = DedicatedThread._submit
    visits: list[object] = []

    def count_and_submit(thread: DedicatedThread, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        visits.append(function)
        return submit(thread, function, *arguments)

    caller: ContextVar[int] = ContextVar("caller")

    async def write(number: int) -> int:
        caller.set(number)

        async def insert(connection: AsyncConnection) -> int:
            await connection.execute(text("INSERT INTO shots VALUES (:number)"), {"number": caller.get()})
            if number == 5:
                raise ValueError("its caller's own error")
            return number

        return await database.write(insert)

    executed: list[str] = []

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        executed.append(sql.split()[0])

    await write(0)
    executed.clear()
    monkeypatch.setattr(DedicatedThread, "_submit", count_and_submit)
    writing = [asyncio.create_task(write(number)) for number in (1, 5, 2, 1, 4, 3)]
    await asyncio.sleep(0)
    writing[4].cancel()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert [outcome if isinstance(outcome, int) else type(outcome) for outcome in outcomes] == [
        *(1, ValueError, 2, InvalidTransition, asyncio.CancelledError, 3)
    ]
    assert committed(ledger_file) == {0, 1, 2, 3}
    assert len(visits) == 1
    # Savepoints past SQLAlchemy, which takes as long for each as for what is written.
    assert executed == ["BEGIN", *["INSERT"] * 5]


async def test_a_caller_that_is_cancelled_before_its_statements_are_run_writes_nothing(
    database: Database, ledger_file: Path
) -> None:
    for steps in range(8):
        is_cancelled = threading.Event()

        async def insert(
            connection: AsyncConnection, number: int = steps, event: threading.Event = is_cancelled
        ) -> None:
            event.wait(10)
            await connection.execute(text("INSERT INTO shots VALUES (:number)"), {"number": number})

        writing = asyncio.create_task(database.write(insert))
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        is_cancelled.set()
        await asyncio.wait([writing])
        assert writing.cancelled()
        assert committed(ledger_file) == set(), f"cancelled after {steps} rounds of the event loop"


@pytest.mark.parametrize("in_one_visit", [True, False])
async def test_a_disk_that_fails_within_a_transaction_is_reported_to_all_that_share_it(
    database: Database, ledger_file: Path, in_one_visit: bool
) -> None:
    """SQLite then takes back the whole transaction by itself, and each caller may write again."""

    async def insert_much(connection: AsyncConnection) -> None:
        # More than is kept in memory until the commit.
        numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 6000)"
        await connection.execute(text(f"INSERT INTO takes {numbers} SELECT randomblob(1000) FROM numbers"))

    async def write_much() -> None:
        if in_one_visit:
            return await database.write(insert_much)
        async with database.writing() as connection:
            await insert_much(connection)

    async def write(number: int) -> None:
        await database.write(lambda connection: insert_shot(connection, number))

    async def insert_shot(connection: AsyncConnection, number: int) -> None:
        await connection.execute(text("INSERT INTO shots VALUES (:number)"), {"number": number})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        outcomes = await asyncio.gather(write(1), write_much(), write(2), return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 3
    assert committed(ledger_file) == set()
    await write(3)
    assert committed(ledger_file) == {3}
