"""The connection to a SQLite file: aiosqlite's, with one visit to its thread for each statement.

aiosqlite makes four (opens a cursor, executes, fetches, closes it), and each one wakes two threads: they, not SQLite,
are what a transaction's time goes to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Self

import aiosqlite

from prefect_video.ledger.file_identity import FileIdentity
from prefect_video.ledger.locations import Location


async def connect(location: Location, file: FileIdentity) -> Connection:
    """A new connection, to be closed by whoever asked for it.

    Raises:
        sqlite3.Error: The file cannot be opened.
        LedgerFileUnsafe: It is not the file that earlier connections are to, or has several names.
    """

    def open_file() -> sqlite3.Connection:
        if file.is_known:
            # Before it is opened: that would create a new file where the old one was deleted.
            file.require()
        # Without an isolation level the driver begins no transactions of its own: it would begin them deferred.
        opened = sqlite3.connect(str(location.path), timeout=location.busy_seconds, isolation_level=None)
        try:
            file.require()
        except BaseException:
            opened.close()
            raise
        return opened

    connection = Connection(open_file, iter_chunk_size=64)
    # A process that ends does not wait for it.
    connection._thread.daemon = True
    await connection
    return connection


class Connection(aiosqlite.Connection):
    """A connection whose cursors have read all their rows when a statement is done."""

    def cursor(self) -> Cursor:  # type: ignore[override]
        """A cursor; opening and closing it costs nothing."""
        return Cursor(self)

    async def rollback(self) -> None:
        """Takes back what was not committed; the pool asks for it each time a connection is returned."""
        if self._conn.in_transaction:
            await super().rollback()

    async def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Runs a function in the connection's thread, after all that was asked for before."""
        await self._execute(function, *arguments)  # type: ignore[no-untyped-call]


class Cursor:
    """What SQLAlchemy asks of an asynchronous cursor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

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
        """Runs a statement and reads all its rows."""
        await self._connection.run(self._run, sqlite3.Cursor.execute, sql, parameters)

    async def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        """Runs a statement for each of several parameters."""
        await self._connection.run(self._run, sqlite3.Cursor.executemany, sql, parameters)

    async def fetchall(self) -> list[Any]:
        """The rows, once."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Forgets the rows."""
        self._rows = []

    def _run(self, execute: Callable[..., Any], sql: str, parameters: Sequence[Any]) -> None:
        cursor = self._connection._conn.cursor()
        try:
            execute(cursor, sql, parameters)
            self.description, self._rows = cursor.description, cursor.fetchall()
            self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        finally:
            cursor.close()
