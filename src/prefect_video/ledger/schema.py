"""The version of a ledger's schema: reading it, bringing it up to date, refusing what does not fit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import Connection, inspect, text

from prefect_video._shield import run_in_thread
from prefect_video.errors import LedgerSchemaMismatch, LedgerUnavailable
from prefect_video.ledger.database import Database
from prefect_video.ledger.latest_schema import create_latest_schema
from prefect_video.ledger.leases import FileLock, acquire_if_free, new_lock
from prefect_video.ledger.tables import VERSION_TABLE

REVISIONS: Final = ("0001",)
"""Every revision in `migrations/versions`, oldest first; held here so that opening a ledger need not load them."""

HEAD: Final = "head"
"""Alembic's name of the last revision."""

MIGRATION_LOCK: Final = 0x5669_6465_6F01
"""PostgreSQL advisory lock held while migrating."""

_PAUSE_SECONDS: Final = 0.02
_MIGRATING: Final = threading.Lock()


async def prepare(database: Database, *, migrate: bool | None) -> None:
    """Prepare a ledger for use: bring its schema up to date where allowed, and check that it is.

    Args:
        database: The ledger's database.
        migrate: Whether to create and upgrade; None does so on SQLite only, where the file is the user's own.

    Raises:
        LedgerSchemaMismatch: The schema is older and may not be upgraded here, or newer than this version.
        LedgerUnavailable: The database cannot be used.
    """
    wanted = database.is_sqlite if migrate is None else migrate
    if not database.is_sqlite:
        if wanted:
            await upgrade(database)
        return await check(database)
    async with _sole_opener(database):
        if wanted:
            await upgrade(database)
        return await check(database)


async def upgrade(database: Database, revision: str = HEAD) -> None:
    """Run the missing migrations in one transaction; do nothing on a current schema.

    Raises:
        LedgerSchemaMismatch: The schema is newer than this version.
    """
    async with database.writing() as connection:
        if not database.is_sqlite:
            # Another process's migration is waited for, however long it takes.
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        current = await connection.run_sync(_current)
        _refuse_newer(current, database)
        if _needs_no_migration(database, current, revision):
            await connection.run_sync(create_latest_schema, REVISIONS[-1])
        elif current != REVISIONS[-1]:
            async with _sole_migrator():
                await connection.run_sync(_migrate, revision)


async def check(database: Database) -> None:
    """Refuse a schema that is not this version's.

    Raises:
        LedgerSchemaMismatch: It is older or newer.
    """
    async with database.reading() as connection:
        current = await connection.run_sync(_current)
    _refuse_newer(current, database)
    if current != REVISIONS[-1]:
        stands = f"is at schema {current}" if current else "has no tables yet"
        raise LedgerSchemaMismatch(
            f"the ledger {database.location.name} {stands}, this version needs {REVISIONS[-1]}: "
            "run `prefect-video ledger upgrade`"
        )


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def _needs_no_migration(database: Database, current: str | None, revision: str) -> bool:
    """Tell whether a ledger is new, and can be made as the latest migration leaves it."""
    return database.is_sqlite and current is None and revision == HEAD


def _migrate(connection: Connection, revision: str) -> None:
    # Alembic takes a while to import and is needed rarely in a ledger's life.
    from prefect_video.ledger.migrations import run_migrations

    run_migrations(connection, revision)


def _refuse_newer(current: str | None, database: Database) -> None:
    if current is not None and current not in REVISIONS:
        raise LedgerSchemaMismatch(
            f"the ledger {database.location.name} is at schema {current}, which this version does not know "
            f"(it knows up to {REVISIONS[-1]}): install a newer prefect-video"
        )


@asynccontextmanager
async def _sole_migrator() -> AsyncIterator[None]:
    """Let one ledger of this process at a time be migrated: what Alembic is doing is global to it."""
    while not _MIGRATING.acquire(blocking=False):  # noqa: ASYNC110  another loop may hold it
        await asyncio.sleep(_PAUSE_SECONDS)
    try:
        yield
    finally:
        _MIGRATING.release()


@asynccontextmanager
async def _sole_opener(database: Database) -> AsyncIterator[None]:
    """Let one process at a time open a SQLite file: switching a new file to WAL fails when two do it."""
    path = database.location.path
    assert path is not None
    lock = new_lock(path.with_name(path.name + ".lock"))
    try:
        try:
            await run_in_thread(path.parent.mkdir, parents=True, exist_ok=True)
            await _acquire(lock, database)
        except OSError as error:
            raise LedgerUnavailable(
                f"the ledger {path} cannot be opened: see that its folder exists and that this user may write "
                f"in it ({error.strerror or error})"
            ) from error
        yield
    finally:
        # Also when cancelled while acquiring: a lock that stays behind keeps every other process out.
        lock.release()


async def _acquire(lock: FileLock, database: Database) -> None:
    clock = asyncio.get_running_loop().time
    give_up = clock() + database.location.busy_seconds
    while not await run_in_thread(acquire_if_free, lock):
        if clock() > give_up:
            raise LedgerUnavailable(
                f"the ledger {database.location.name} is being opened or upgraded by another process for "
                f"{database.location.busy_seconds:g} s: see what holds {lock.lock_file}"
            )
        await asyncio.sleep(_PAUSE_SECONDS)
