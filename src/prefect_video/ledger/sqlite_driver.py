"""The connection to a SQLite file, as SQLAlchemy's aiosqlite dialect drives it: one visit to its thread a statement.

aiosqlite's own connection makes four (opens a cursor, executes, fetches, closes it), and each one wakes two threads:
they, not SQLite, are what a transaction's time goes to. A transaction may be run in the thread as a whole, in one visit
(`run_in_one_visit`). There its statements go to SQLite directly: SQLAlchemy's way from asynchronous code to a driver
and back takes longer than they do.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sqlalchemy import CursorResult, Executable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util.concurrency import greenlet_spawn

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video._shield import shielded
from prefect_video.ledger.file_identity import FileIdentity
from prefect_video.ledger.urls import DatabaseUrl

THREAD_NAME: Final = "ledger-sqlite"

Result = TypeVar("Result")
Statements = Callable[[AsyncConnection], Coroutine[Any, Any, Result]]
"""Coroutine function that runs statements of one transaction, and awaits nothing but the connection it is given."""


async def connect(location: DatabaseUrl, file: FileIdentity) -> Connection:
    """Open a new connection, to be closed by the caller.

    Raises:
        sqlite3.Error: The file cannot be opened.
        LedgerFileUnsafe: It is not the file that earlier connections are to, or has several names.
    """
    connection = Connection(location, file)
    try:
        await connection.open()
    except BaseException:
        connection.stop()
        raise
    return connection


async def run_in_one_visit(connection: AsyncConnection, statements: Statements[Result]) -> Result:
    """Run statements of an open connection's transaction in the thread of its file; cancelled, only after their end.

    Raises:
        RuntimeError: They await something else than the connection.
    """
    # Not the connection itself: that of a group waits for each statement in a task, for which a thread has no loop.
    direct = _DirectConnection(connection.engine, connection.sync_connection)
    return await shielded(_driver_of(connection).complete(statements(direct)))


async def run_directly(connection: AsyncConnection, sql: str) -> None:
    """Run a statement that returns nothing without SQLAlchemy, which takes fifty times as long for it as SQLite.

    Raises:
        sqlite3.Error: It failed.
    """
    await _driver_of(connection).run(sqlite3.Connection.execute, sql)


class _DirectConnection(AsyncConnection):
    """The connection of statements that are run in the thread of its file: nothing has to be waited for."""

    async def execute(self, statement: Executable, *arguments: Any, **options: Any) -> CursorResult[Any]:
        """Run a statement."""
        assert self.sync_connection is not None
        return self.sync_connection.execute(statement, *arguments, **options)

    async def exec_driver_sql(self, statement: str, *arguments: Any, **options: Any) -> CursorResult[Any]:
        """Run a statement in the driver's own SQL."""
        assert self.sync_connection is not None
        return self.sync_connection.exec_driver_sql(statement, *arguments, **options)


def _driver_of(connection: AsyncConnection) -> Connection:
    assert connection.sync_connection is not None
    driver = connection.sync_connection.connection.driver_connection
    assert isinstance(driver, Connection)
    return driver


class Connection:
    """A connection that lives in a thread of its own; `sqlite3` itself refuses it to every other thread.

    A statement whose task is cancelled is run to its end before anything that comes after it, `close` included.
    """

    def __init__(self, location: DatabaseUrl, file: FileIdentity) -> None:
        self._location = location
        self._identity = file
        self._thread = DedicatedThread(THREAD_NAME)
        # Both belong to the thread; the second is read elsewhere only while the thread is idle.
        self._file: sqlite3.Connection | None = None
        self._in_transaction = False

    @property
    def _connection(self) -> bool:
        """Tell SQLAlchemy's dialect whether there is something to commit or roll back: it asks by this name."""
        return not self._thread.is_stopped

    async def open(self) -> None:
        """Open the file.

        Raises:
            sqlite3.Error: It cannot be opened.
            LedgerFileUnsafe: It is not the file that earlier connections are to, or has several names.
        """
        await self._thread.run(self._open)

    @property
    def is_own_thread(self) -> bool:
        """True in a function that the connection's thread runs."""
        return self._thread.is_current

    def cursor(self) -> Cursor:
        """Return a cursor; opening and closing it costs nothing."""
        return Cursor(self)

    def direct_cursor(self) -> DirectCursor:
        """Return a cursor for use in the connection's own thread."""
        return DirectCursor(self)

    async def commit(self) -> None:
        """Make the transaction durable."""
        await self.run(sqlite3.Connection.commit)

    async def rollback(self) -> None:
        """Take back what was not committed; the pool asks for it each time a connection is returned."""
        if self._in_transaction or not self._thread.is_idle:
            await self.run(sqlite3.Connection.rollback)

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        """Make a Python function callable from SQL; the dialect brings `regexp` and `floor` with each connection."""
        await self.run(sqlite3.Connection.create_function, *arguments, **options)

    async def close(self) -> None:
        """Close the file after everything that was begun, and end the thread; a second time does nothing."""
        await self._thread.close(self._close)

    def stop(self) -> None:
        """Begin to close, without waiting for the end."""
        self._thread.stop(self._close)

    async def run(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Call a function with the `sqlite3` connection in its thread, after all that was requested before.

        Raises:
            sqlite3.ProgrammingError: The connection is closed.
        """
        if self._thread.is_stopped:
            # In the words of `sqlite3`, by which SQLAlchemy knows a connection that is of no more use.
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
        if self._thread.is_current:
            return self.call(function, *arguments, **options)
        return await self._thread.run(self.call, function, *arguments, **options)

    async def complete(self, statements: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the thread, from its beginning to its end; it awaits nothing but this connection.

        Raises:
            RuntimeError: It awaits something else.
        """
        return await self._thread.run(complete, statements)

    def _open(self) -> None:
        location = self._location
        if self._identity.is_known:
            # Before it is opened: that would create a new file where the old one was deleted.
            self._identity.require()
        # Without an isolation level the driver begins no transactions of its own: it would begin them deferred.
        self._file = sqlite3.connect(str(location.path), timeout=location.busy_seconds, isolation_level=None)
        self._identity.require()

    def call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Call a function with the `sqlite3` connection; only in the connection's own thread."""
        assert self._file is not None
        try:
            return function(self._file, *arguments, **options)
        finally:
            self._in_transaction = self._file.in_transaction

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Answer:
    """Answer of a statement, whose rows are all read when it is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: deque[Any] = deque()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    def _run(self, file: sqlite3.Connection, execute: Callable[..., Any], sql: str, parameters: Sequence[Any]) -> None:
        cursor = file.cursor()
        try:
            execute(cursor, sql, parameters)
            self.description, self._rows = cursor.description, deque(cursor.fetchall())
            self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        finally:
            cursor.close()

    def _take_rows(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows


class Cursor(_Answer):
    """Asynchronous cursor, as SQLAlchemy adapts it."""

    def __await__(self) -> Generator[Any, None, Self]:
        # Before 2.0.44, SQLAlchemy awaited cursors instead of entering them.
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement and read all its rows."""
        await self._connection.run(self._run, sqlite3.Cursor.execute, sql, parameters)

    async def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of several parameters."""
        await self._connection.run(self._run, sqlite3.Cursor.executemany, sql, parameters)

    async def fetchall(self) -> list[Any]:
        """Return the rows, once."""
        return self._take_rows()

    async def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()


class DirectCursor(_Answer):
    """Cursor of the connection's own thread, as SQLAlchemy uses those of a driver that is not asynchronous."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement and read all its rows."""
        self._connection.call(self._run, sqlite3.Cursor.execute, sql, parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of several parameters."""
        self._connection.call(self._run, sqlite3.Cursor.executemany, sql, parameters)

    def fetchone(self) -> Any:
        """Return the next row, once; None after the last."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows, once."""
        wanted = self.arraysize if size is None else size
        return [self._rows.popleft() for _ in range(min(wanted, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        """Return the rows that are left, once."""
        return self._take_rows()

    def close(self) -> None:
        """Forget the rows."""
        self._rows.clear()


def complete(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that awaits nothing but a connection of this thread.

    Raises:
        RuntimeError: It awaits something else.
    """
    # In one greenlet: what goes SQLAlchemy's ordinary way, such as a commit, needs one, and would make it each time.
    driven: Coroutine[Any, Any, Result] = greenlet_spawn(_run_to_end, coroutine)
    return _run_to_end(driven)


def _run_to_end(coroutine: Coroutine[Any, Any, Result]) -> Result:
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction in the thread of its file may await nothing but its connection")
