"""Statements in the thread of a ledger's file: they say what they say elsewhere, without SQLAlchemy's way there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import CursorResult, event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import InvalidTransition, LedgerError, LedgerUnavailable
from prefect_video.ledger import Ledger
from prefect_video.ledger.database import Database
from prefect_video.ledger.sqlite_driver import Cursor
from prefect_video.ledger.urls import parse_database_url
from tests.support.records import a_request

SCHEMA = ("CREATE TABLE pairs (number INTEGER PRIMARY KEY, half TEXT)",)

READERS: dict[str, Callable[[CursorResult[Any]], object]] = {
    "all": lambda found: found.all(),
    "one by one": list,
    "by columns": lambda found: found.mappings().all(),
    "in parts": lambda found: list(found.partitions(3)),
    "first": lambda found: (found.first(), found.closed),
    "one of a kind": lambda found: found.scalars().all(),
    "one behind the other": lambda found: (
        found.fetchone(),
        found.fetchmany(2),
        found.fetchmany(0),
        found.fetchmany(),
        found.fetchall(),
    ),
}


def insert(number: int) -> Callable[[AsyncConnection], Awaitable[None]]:
    async def step(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO pairs VALUES (:number, 'a')"), {"number": number})

    return step


async def count(connection: AsyncConnection) -> int:
    return int((await connection.execute(text("SELECT count(*) FROM pairs"))).scalar_one())


async def test_no_statement_takes_the_way_of_asynchronous_drivers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.reading():
        pass

    for name in ("execute", "executemany"):
        monkeypatch.delattr(Cursor, name)
    await database.write(insert(1))
    assert await database.read(count) == 1


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
async def test_rows_are_those_of_an_ordinary_connection(
    database: Database, read: Callable[[CursorResult[Any]], object]
) -> None:
    query = text("SELECT number, half FROM pairs ORDER BY number")
    many = [{"number": number} for number in range(7)]

    async def insert_many(connection: AsyncConnection) -> int:
        return (await connection.execute(text("INSERT INTO pairs VALUES (:number, 'a')"), many)).rowcount

    async def read_all(connection: AsyncConnection) -> object:
        return read(await connection.execute(query))

    assert await database.write(insert_many) == 7
    async with database.reading() as connection:
        expected = await read_all(connection)
    assert await database.read(read_all) == expected


async def test_statements_in_the_drivers_own_words_are_run_too(database: Database) -> None:
    async def insert_and_count(connection: AsyncConnection) -> int:
        await connection.exec_driver_sql("INSERT INTO pairs VALUES (?, 'a')", (1,))
        return int((await connection.exec_driver_sql("SELECT count(*) FROM pairs")).scalar_one())

    assert await database.write(insert_and_count) == 1


async def test_rows_may_be_read_after_the_visit(database: Database) -> None:
    async def update(connection: AsyncConnection) -> CursorResult[Any]:
        return await connection.execute(text("UPDATE pairs SET half = 'b' RETURNING number, half"))

    for number in range(3):
        await database.write(insert(number))
    changed = await database.write(update)
    assert sorted(changed.all()) == [(0, "b"), (1, "b"), (2, "b")]


async def test_what_fails_is_explained_and_leaves_the_others_of_its_group(database: Database) -> None:
    async def misspell(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT nothing FROM nowhere"))

    # The first is written alone; the others wait for it, and make a group.
    writes = [database.write(step) for step in (insert(0), insert(1), insert(1), misspell, insert(2))]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        type(None), type(None), InvalidTransition, LedgerError, type(None),
    ]  # fmt: skip
    assert await database.read(count) == 3


@pytest.mark.parametrize("way", ["read", "write"])
async def test_a_transaction_that_cannot_begin_is_explained_and_the_next_one_works(ledger_file: Path, way: str) -> None:
    with closing(sqlite3.connect(ledger_file, isolation_level=None)) as other:
        for statement in ("PRAGMA journal_mode = WAL", *SCHEMA):
            other.execute(statement)
        database = Database(parse_database_url(f"sqlite:///{ledger_file}?timeout=0.05"))
        await database.read(count)
        if way == "write":
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnavailable, match="locked"):
                await database.write(insert(1))
            other.execute("ROLLBACK")
        else:

            def fail(connection: object) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            event.listen(database.engine.sync_engine, "begin", fail)
            with pytest.raises(LedgerError, match="disk I/O error"):
                await database.read(count)
            event.remove(database.engine.sync_engine, "begin", fail)
        await database.write(insert(1))
        assert await database.read(count) == 1
        await database.close()


async def test_a_submit_reads_its_row_and_its_account_once_each(sqlite_url: str) -> None:
    async with await Ledger.open(sqlite_url, migrate=True) as ledger:
        claims = (await ledger.claims.claim([a_request(number) for number in range(2)])).claims
        first, second = (claim.job.id for claim in claims if claim.job is not None)
        # Makes the row of the account, and notes the key.
        assert await ledger.accounts.acquire_slot(first, slots=2)
        statements: list[str] = []

        @event.listens_for(ledger._database.engine.sync_engine, "before_cursor_execute")
        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement.split()[0])

        assert await ledger.accounts.acquire_slot(second, slots=2)
        assert statements == ["BEGIN", "SELECT", "SELECT", "UPDATE", "INSERT"]
