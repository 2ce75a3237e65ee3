"""The SQLite connection under SQLAlchemy, with tasks that are cancelled at any moment."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.ledger import Ledger
from prefect_video.ledger.database import Database
from prefect_video.ledger.file_identity import FileIdentity
from prefect_video.ledger.sqlite_driver import THREAD_NAME, Connection, connect
from prefect_video.ledger.urls import parse_database_url

CANCELLED_LOOKS = """
import asyncio, sys
from prefect_video.ledger.change_feed import SqliteChangeFeed
from prefect_video.ledger.database import Database
from prefect_video.ledger.urls import parse_database_url

async def run(url):
    database = Database(parse_database_url(url))
    async with database.reading():
        pass
    for _ in range(20_000):
        changes = SqliteChangeFeed(database)
        waiting = asyncio.create_task(changes.wait(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await changes.aclose()
    await database.close()

asyncio.run(run(sys.argv[1]))
"""

SCHEMA = ("CREATE TABLE pairs (number INTEGER, half TEXT)",)


def rows(path: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT number, half FROM pairs ORDER BY number, half").fetchall()


async def connect_to(path: Path) -> Connection:
    location = parse_database_url(str(path))
    return await connect(location, FileIdentity(location))


async def held_connection(path: Path, release: threading.Event) -> Connection:
    """A connection with a function in SQL that returns its argument when it is let."""

    def held(value: int) -> int:
        assert release.wait(10)
        return value

    connection = await connect_to(path)
    await connection.create_function("held", 1, held)
    return connection


async def cancel_while_held(connection: Connection) -> None:
    """Begin an insert that is held up in the thread, and cancel its task."""
    inserting = asyncio.create_task(connection.cursor().execute("INSERT INTO pairs VALUES (held(1), 'a')"))
    await asyncio.sleep(0)
    inserting.cancel()
    await asyncio.wait([inserting])
    assert inserting.cancelled()


def test_looks_that_are_cancelled_and_closed_do_not_end_the_process(ledger_file: Path) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", CANCELLED_LOOKS, str(ledger_file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_a_file_is_used_by_one_thread_only(ledger_file: Path) -> None:
    connection = await connect_to(ledger_file)
    assert connection._file is not None
    with pytest.raises(sqlite3.ProgrammingError, match="same thread"):
        connection._file.execute("SELECT 1")
    await connection.close()


async def test_a_statement_that_is_cancelled_ends_before_the_rollback(database: Database, ledger_file: Path) -> None:
    release = threading.Event()
    connection = await held_connection(ledger_file, release)
    cursor = connection.cursor()
    await cursor.execute("BEGIN IMMEDIATE")
    await cancel_while_held(connection)
    rollback = asyncio.create_task(connection.rollback())
    await asyncio.sleep(0)
    assert not rollback.done()
    release.set()
    await rollback
    await cursor.execute("SELECT count(*) FROM pairs")
    assert await cursor.fetchall() == [(0,)]
    await connection.close()
    assert rows(ledger_file) == []


async def test_a_transaction_that_is_begun_by_a_cancelled_task_is_taken_back(
    database: Database, ledger_file: Path
) -> None:
    connection = await connect_to(ledger_file)
    beginning = asyncio.create_task(connection.cursor().execute("BEGIN IMMEDIATE"))
    await asyncio.sleep(0)
    beginning.cancel()
    await connection.rollback()
    async with database.writing() as other:
        await other.execute(text("INSERT INTO pairs VALUES (1, 'a')"))
    await connection.close()


async def test_a_statement_that_is_cancelled_ends_before_closing(database: Database, ledger_file: Path) -> None:
    release = threading.Event()
    connection = await held_connection(ledger_file, release)
    await cancel_while_held(connection)
    closing_it = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    assert not closing_it.done()
    release.set()
    await closing_it
    assert rows(ledger_file) == [(1, "a")]


async def test_a_closed_connection_says_so_and_closes_again(ledger_file: Path) -> None:
    connection = await connect_to(ledger_file)
    await connection.close()
    await connection.close()
    connection.stop()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        await connection.cursor().execute("SELECT 1")


async def test_a_file_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await connect_to(tmp_path / "missing" / "ledger.db")
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            await asyncio.to_thread(thread.join, 10)
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}


async def test_the_dialect_finds_what_it_asks_of_a_connection(database: Database) -> None:
    async with database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        assert isinstance(raw.driver_connection, Connection)
        assert (await connection.execute(text("SELECT 'abc' REGEXP 'b'"))).scalar() == 1
        await connection.commit()
        await connection.execute(text("SELECT 1"))
        await connection.rollback()
        await connection.invalidate()
    async with database.writing() as connection:
        inserted = await connection.execute(
            text("INSERT INTO pairs VALUES (:number, 'a')"), [{"number": number} for number in range(3)]
        )
        assert inserted.rowcount == 3
    with pytest.raises(SQLAlchemyError):
        async with database.engine.connect() as connection:
            await connection.execute(text("SELECT nothing FROM nowhere"))


async def test_cancelled_at_any_moment_a_transaction_is_whole_or_absent(database: Database, ledger_file: Path) -> None:
    """Sixteen tasks write pairs and read them back, while most are cancelled at a moment of chance."""
    dice = random.Random(9)
    committed: set[int] = set()

    async def write_pair(number: int) -> None:
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO pairs VALUES (:number, 'a')"), {"number": number})
            await connection.execute(text("INSERT INTO pairs VALUES (:number, 'b')"), {"number": number})
        committed.add(number)

    async def read_pairs() -> None:
        async with database.reading() as connection:
            halves = await connection.execute(text("SELECT count(*) FROM pairs GROUP BY number"))
            assert set(halves.scalars()) <= {2}

    async def cancel_later(task: asyncio.Task[None]) -> None:
        for _ in range(dice.randrange(60)):
            await asyncio.sleep(0)
        if dice.random() < 0.5:
            await asyncio.sleep(dice.random() / 100)
        task.cancel()

    for round_number in range(25):
        tasks = [asyncio.create_task(write_pair(16 * round_number + number)) for number in range(12)]
        tasks += [asyncio.create_task(read_pairs()) for _ in range(4)]
        await asyncio.gather(*(cancel_later(task) for task in tasks if dice.random() < 0.7))
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
    found = rows(ledger_file)
    numbers = {number for number, _ in found}
    assert found == sorted((number, half) for number in numbers for half in "ab")
    assert committed <= numbers
    assert 0 < len(committed) < 300


async def test_a_ledger_works_when_aiosqlite_has_no_connection_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(aiosqlite.core, "Connection")
    ledger = await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    try:
        await ledger.check()
    finally:
        await ledger.aclose()


async def insert_pair(connection: AsyncConnection) -> None:
    await connection.execute(text("INSERT INTO pairs VALUES (1, 'a')"))
    await connection.execute(text("INSERT INTO pairs VALUES (1, 'b')"))


async def test_a_transaction_is_run_in_one_visit_to_the_thread(
    database: Database, ledger_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.reading():
        pass
    visits: list[object] = []
    submit = DedicatedThread._submit

    def count_and_submit(
        thread: DedicatedThread, function: Callable[..., object], *arguments: object
    ) -> asyncio.Future[object]:
        visits.append(function)
        return submit(thread, function, *arguments)

    monkeypatch.setattr(DedicatedThread, "_submit", count_and_submit)
    await database.write(insert_pair)
    assert len(visits) == 1  # from the beginning to the commit
    assert rows(ledger_file) == [(1, "a"), (1, "b")]


async def test_a_transaction_that_awaits_something_else_is_taken_back(database: Database, ledger_file: Path) -> None:
    async def insert_and_wait(connection: AsyncConnection) -> None:
        await insert_pair(connection)
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="nothing but its connection"):
        await database.write(insert_and_wait)
    assert rows(ledger_file) == []
    await database.write(insert_pair)
    assert len(rows(ledger_file)) == 2


async def test_a_transaction_whose_task_is_cancelled_in_the_thread_is_taken_back(
    database: Database, ledger_file: Path
) -> None:
    begun, release = threading.Event(), threading.Event()

    async def insert_when_let(connection: AsyncConnection) -> None:
        await insert_pair(connection)
        begun.set()
        assert release.wait(10)

    writing = asyncio.create_task(database.write(insert_when_let))
    await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    release.set()
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert rows(ledger_file) == []
