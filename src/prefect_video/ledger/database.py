"""The connection to a ledger's database: engine, settings, transactions."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Insert, Table, event, func, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from prefect_video.errors import InvalidTransition, LedgerError, LedgerSchemaMismatch, LedgerUnavailable
from prefect_video.ledger.file_identity import FileIdentity
from prefect_video.ledger.group_commit import GroupCommit
from prefect_video.ledger.log_lines import log_after_commit
from prefect_video.ledger.sqlite_driver import Statements, connect, run_in_one_visit
from prefect_video.ledger.urls import DatabaseUrl, PoolLimits

Result = TypeVar("Result")

_SQLITE_FAULTS: Final = (
    (
        r"no such (table|column)",
        LedgerSchemaMismatch,
        "has not this version's tables: run `prefect-video ledger upgrade`",
    ),
    (
        r"locked|busy",
        LedgerUnavailable,
        "is locked by another process: find who holds it (a backup, an open shell), then run again",
    ),
    (
        r"readonly|read-only",
        LedgerUnavailable,
        "is read-only: give this user the right to write the file and its folder",
    ),
    (r"is full", LedgerUnavailable, "cannot grow, the disk is full: free some space, then run again"),
    (
        r"not a database|malformed|encrypted",
        LedgerUnavailable,
        "is not a ledger or is damaged: move it away and restore a backup",
    ),
    (
        r"unable to open",
        LedgerUnavailable,
        "cannot be opened: see that its folder exists and that this user may read and write it",
    ),
    (
        r"disk I/O error",
        LedgerUnavailable,
        "cannot be read or written, the disk reports an error: see the system's log",
    ),
)

_POSTGRESQL_FAULTS: Final = (
    (r"42P01|42703|3F000", LedgerSchemaMismatch, "has not this version's tables: run `prefect-video ledger upgrade`"),
    (r"28...", LedgerUnavailable, "refused the login: correct user and password in the ledger URL"),
    (r"3D000", LedgerUnavailable, "does not exist: create the database, then run `prefect-video ledger upgrade`"),
    (r"42501", LedgerUnavailable, "denies this user the right: grant SELECT, INSERT, UPDATE and DELETE on its tables"),
    (r"25006", LedgerUnavailable, "is read-only (a standby?): point the ledger URL to the primary server"),
    (r"53100", LedgerUnavailable, "cannot grow, the server's disk is full: free some space, then run again"),
    (r"53...", LedgerUnavailable, "has no room for another connection: use fewer workers or allow more connections"),
    (r"55P03|40P01|40001|57014", LedgerUnavailable, "is busy, another process holds the lock: run again"),
    (r"57P..|08...", LedgerUnavailable, "closed the connection: run again once the server is up"),
)


def translate_error(error: Exception, location: DatabaseUrl) -> LedgerError:
    """Turn a driver's error into one that names the ledger, the cause and the next step."""
    if isinstance(error, PoolTimeout):
        return LedgerUnavailable(f"the ledger {location.name} is too busy: no connection became free in time")
    if isinstance(error, IntegrityError):
        return InvalidTransition(
            f"the ledger {location.name} refused a step that another process made first "
            f"({_first_line(error.orig)}): read the row again"
        )
    if location.path is not None:
        return _explain_sqlite(error, location)
    return _explain_postgresql(error, location)


def _explain_sqlite(error: Exception, location: DatabaseUrl) -> LedgerError:
    cause = _first_line(_original(error))
    for pattern, kind, advice in _SQLITE_FAULTS:
        if re.search(pattern, cause):
            return kind(f"the ledger {location.name} {advice} ({cause})")
    if isinstance(error, OSError):
        return LedgerUnavailable(f"the ledger {location.name} cannot be used: {cause}")
    return LedgerError(f"the ledger {location.name} failed: {cause}")


def _explain_postgresql(error: Exception, location: DatabaseUrl) -> LedgerError:
    original = _original(error)
    code = str(getattr(original, "sqlstate", None) or "")
    cause = _first_line(original)
    for pattern, kind, advice in _POSTGRESQL_FAULTS:
        if re.fullmatch(pattern, code):
            return kind(f"the ledger {location.label} {advice} ({cause})")
    if isinstance(original, OSError):
        return LedgerUnavailable(
            f"the ledger {location.label} cannot be reached: see that the server runs and that host and port "
            f"are right ({cause})"
        )
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return LedgerUnavailable(f"the ledger {location.label} closed the connection: run again ({cause})")
    return LedgerError(f"the ledger {location.label} failed: {cause}")


def _original(error: Exception) -> BaseException:
    """Find the driver's own error below SQLAlchemy's, and below its adapter of an async driver."""
    original: BaseException = (error.orig or error) if isinstance(error, DBAPIError) else error
    if getattr(original, "sqlstate", None) is None and isinstance(original.__cause__, OSError):
        return original.__cause__
    return original


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"^<class '[^']*'>: ", "", text).splitlines()[0]


_CONNECT_SECONDS = 10.0
_LIMIT_WAITING: Final = "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'"


class Database:
    """One pool of connections; belongs to the event loop it was first used in.

    No error of SQLAlchemy or of a driver leaves `reading` and `writing`: see `faults`.
    """

    def __init__(self, location: DatabaseUrl) -> None:
        self.location = location
        self.is_sqlite = location.path is not None
        self.accounts: dict[str, None] = {}
        self._file = FileIdentity(location, self.accounts.keys()) if self.is_sqlite else None
        self.engine = _sqlite_engine(location, self._file) if self._file else _postgresql_engine(location)
        self._aside = self.engine if self.is_sqlite else _postgresql_engine(location, pool_size=1, pool_pre_ping=True)
        self._writer = self.engine.execution_options(immediate=True)
        driver_errors = (sqlite3.Error,) if self.is_sqlite else _asyncpg_errors()
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError, *driver_errors)
        # SQLite has one writer at a time. Our own coroutines queue here, in order, instead of polling the file, and
        # commit together. PostgreSQL itself flushes the commits of several connections at once; in one transaction
        # they would hold one another's locks.
        self._group_commit = GroupCommit(self._writer) if self.is_sqlite else None
        self.parallel_writes = 1 if self.is_sqlite else location.pool.largest
        self._turn = asyncio.Semaphore(self.parallel_writes)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for queries, with one snapshot on SQLite.

        Raises:
            LedgerError: See `faults`.
        """
        with self._explained():
            async with self.engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that is durable at the end, or rolled back on any error.

        On SQLite it shares the commit with others that wait.

        Raises:
            LedgerError: See `faults`.
        """
        with self._explained(), log_after_commit():
            if self._group_commit is not None:
                async with self._group_commit.write() as connection:
                    yield connection
            else:
                async with self._turn, self._writer.begin() as connection:
                    yield connection

    async def read(self, queries: Statements[Result]) -> Result:
        """Run queries as in `reading`; on SQLite all of them in one visit to the file's thread.

        Args:
            queries: Runs them; it awaits nothing but the connection that it is given.

        Raises:
            LedgerError: See `faults`.
        """
        async with self.reading() as connection:
            if not self.is_sqlite:
                return await queries(connection)

            async def run_and_end(connection: AsyncConnection) -> Result:
                try:
                    return await queries(connection)
                finally:
                    await connection.rollback()

            return await run_in_one_visit(connection, run_and_end)

    async def write(self, step: Statements[Result]) -> Result:
        """Run a transaction as in `writing`; on SQLite all its statements in one visit to the file's thread.

        Args:
            step: Runs them; it awaits nothing but the connection that it is given.

        Raises:
            LedgerError: See `faults`.
        """
        with self._explained(), log_after_commit():
            if self._group_commit is not None:
                return await self._group_commit.run(step)
        async with self.writing() as connection:
            return await step(connection)

    @asynccontextmanager
    async def writing_immediately(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction as `writing`, on PostgreSQL outside of the pool, so that a busy pool does not delay it.

        Raises:
            LedgerError: See `faults`.
        """
        if self.is_sqlite:
            async with self.writing() as connection:
                yield connection
            return
        with self._explained(), log_after_commit():
            async with self._aside.begin() as connection:
                yield connection

    async def listen(self, channel: str, heard: Callable[..., None], broken: Callable[..., None]) -> AsyncConnection:
        """Listen to a channel of PostgreSQL, on a connection outside the pool; end it with `end_listening`.

        Args:
            channel: Its name.
            heard: Called with connection, process id, channel and payload of each notification.
            broken: Called with the connection when it is lost.

        Raises:
            LedgerError: See `faults`.
        """
        with self._explained():
            connection = await _postgresql_engine(self.location, poolclass=NullPool).connect()
            try:
                # Through the driver itself: what SQLAlchemy runs would begin a transaction, which hears nothing.
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None
                driver.add_termination_listener(broken)
                await driver.add_listener(channel, heard)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def end_listening(self, connection: AsyncConnection) -> None:
        """Close a connection that `listen` has opened.

        Raises:
            LedgerError: It was broken; it is closed all the same.
        """
        with self._explained():
            await connection.invalidate()
            await connection.close()

    def insert_missing(self, table: Table) -> Insert:
        """Return a statement that inserts the rows that are not in a table yet, and leaves the others as they are."""
        # Imported here: PostgreSQL's dialect brings its drivers, and a file does not need them.
        if self.is_sqlite:
            from sqlalchemy.dialects import sqlite

            return sqlite.insert(table).on_conflict_do_nothing()
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()

    async def now(self, connection: AsyncConnection) -> datetime:
        """Read the clock that all processes on this database share: the server's, on SQLite this machine's.

        Where two machines' times are compared and money depends on it, both are read here.
        """
        if self.is_sqlite:
            return datetime.now(UTC)
        server_time: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        return server_time.astimezone(UTC)

    def require_file(self) -> None:
        """Check that other processes read what is written here; call it before anything is spent.

        Raises:
            LedgerFileUnsafe: The SQLite file was deleted, moved or replaced, or has several names.
        """
        if self._file is not None:
            self._file.require()

    async def close(self) -> None:
        """Close all connections."""
        if self._group_commit is not None:
            await self._group_commit.aclose()
        await self.engine.dispose()
        await self._aside.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise translate_error(error, self.location) from error


def _sqlite_engine(location: DatabaseUrl, file: FileIdentity) -> AsyncEngine:
    # Imported here: it brings SQLite's dialect, and a ledger on PostgreSQL does not need it.
    from prefect_video.ledger.sqlite_dialect import COMPILED_STATEMENTS, DRIVER_NAME

    engine = create_async_engine(
        location.url.set(drivername=DRIVER_NAME),
        async_creator=partial(connect, location, file),
        execution_options={"compiled_cache": COMPILED_STATEMENTS},
        **_pool_options(location.pool),
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _pool_options(pool: PoolLimits) -> dict[str, Any]:
    return {"pool_size": pool.size, "max_overflow": pool.overflow, "pool_timeout": pool.timeout_seconds}


def _set_pragmas(connection: Any, _job: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # An intent must be on the disk before the request leaves; NORMAL may lose it at a power cut.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later can fail as locked without any waiting.
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _postgresql_engine(location: DatabaseUrl, **pool: Any) -> AsyncEngine:
    engine = create_async_engine(
        location.url,
        connect_args={"timeout": _CONNECT_SECONDS, "server_settings": {"application_name": "prefect-video"}},
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        **(pool or {**_pool_options(location.pool), "pool_pre_ping": True}),
    )
    event.listen(engine.sync_engine, "connect", _limit_waiting)
    return engine


def _limit_waiting(connection: Any, _job: ConnectionPoolEntry) -> None:
    # A machine that stalls inside a transaction holds its locks until the server ends it; none waits indefinitely.
    # Not among the settings of the connection: poolers such as PgBouncer refuse those that they do not know.
    connection.run_async(lambda driver: driver.execute(_LIMIT_WAITING))


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    # Errors while connecting reach us as asyncpg's own.
    import asyncpg

    return (asyncpg.PostgresError, asyncpg.InterfaceError)
