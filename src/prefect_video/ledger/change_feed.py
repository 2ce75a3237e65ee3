"""Hearing of changed rows without asking for them: NOTIFY on PostgreSQL, the file's version on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import Any, Final, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._dedicated_thread import DedicatedThread
from prefect_video.errors import LedgerError
from prefect_video.ledger.database import Database

logger = logging.getLogger(__name__)

CHANNEL: Final = "prefect_video_jobs"
"""The channel on which PostgreSQL's trigger on `jobs` announces ids whose state, owner or hold reason changed."""

_LOOK_SECONDS: Final = 0.25


class ChangeFeed(Protocol):
    """Feed of the rows that changed since the last call."""

    async def wait(self, seconds: float) -> frozenset[str] | None:
        """Wait for a change, or until the time is over.

        Returns:
            Ids of rows that changed; empty for none; None when any may have.
        """

    async def aclose(self) -> None:
        """Stop listening."""


def open_change_feed(database: Database) -> ChangeFeed:
    """Open the feed of changes that the ledger's database offers."""
    return SqliteChangeFeed(database) if database.is_sqlite else PostgresChangeFeed(database)


class PostgresChangeFeed:
    """`LISTEN` on a connection of its own, opened anew when it breaks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        self._lost = False

    async def wait(self, seconds: float) -> frozenset[str] | None:
        if self._connection is None:
            await self._listen_or_sleep(seconds)
            # What changed while no one listened is not known.
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
        if self._lost:
            await self.aclose()
            return None
        changed, self._changed = frozenset(self._changed), set()
        return changed

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # An error here is of no interest: the connection is dropped either way.
            with contextlib.suppress(LedgerError):
                await self._database.end_listening(connection)

    async def _listen_or_sleep(self, seconds: float) -> None:
        self._lost = False
        try:
            self._connection = await self._database.listen(CHANNEL, self._heard, self._broken)
        except LedgerError as error:
            logger.warning("changes of rows cannot be listened to, looking at them instead: %s", error)
            await asyncio.sleep(seconds)

    def _heard(self, _connection: Any, _pid: int, _channel: str, row_id: str) -> None:
        self._changed.add(row_id)
        self._news.set()

    def _broken(self, _connection: Any) -> None:
        self._lost = True
        self._news.set()


class SqliteChangeFeed:
    """`PRAGMA data_version`: moves whenever another connection commits, and costs no query."""

    def __init__(self, database: Database) -> None:
        self._path = database.location.path
        self._thread = DedicatedThread("ledger-changes")
        # Belongs to the thread: a read whose task is cancelled goes on there, and closing comes after it.
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None

    async def wait(self, seconds: float) -> frozenset[str] | None:
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while True:
            version = await self._thread.run(self._look)
            if version is None:
                await asyncio.sleep(seconds)
                return None
            if version != self._version:
                self._version = version
                return None
            left = until - clock()
            if left <= 0:
                return frozenset()
            await asyncio.sleep(min(left, _LOOK_SECONDS))

    async def aclose(self) -> None:
        await self._thread.close(self._close)

    def _look(self) -> int | None:
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            logger.debug("the ledger's version cannot be read, looking at its rows instead: %s", error)
            return None
        return int(version)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
