"""Stores that the ledger knows: the identity in a store's marker, its address, and what it holds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, and_, exists, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.assets import Asset
from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.database import Database
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import Job, State
from prefect_video.ledger.row_records import readable_rows, require_readable
from prefect_video.ledger.tables import JOBS, copies, job_from_row, jobs_table, stores

STORE_LOCK: Final = 0x5669_6465_6F03
"""PostgreSQL advisory lock held while an identity is given to a store, as SQLite has one writer anyway."""

_NEW_SECONDS: Final = 1.0
"""Time for which an address counts as that of a new store: requests in quick succession share one look around."""
_STORES: Final = select(stores.c.url, stores.c.store_id)


async def read_stores(connection: AsyncConnection) -> dict[str, set[str]]:
    """Read the identities of all stores that were ever used, by their addresses."""
    known: dict[str, set[str]] = {}
    for row in await connection.execute(_STORES):
        known.setdefault(row.url, set()).add(row.store_id)
    return known


class StoreIdentities(LedgerBase):
    """Identities of stores."""

    def __init__(
        self, database: Database, owner: Lease, command_option: str | None, *, seen: Mapping[str, Collection[str]]
    ) -> None:
        super().__init__(database, owner, command_option)
        self._seen = {(url, store_id) for url, store_ids in seen.items() for store_id in store_ids}
        self._new_at: dict[str, float] = {}

    async def store_ids(self, url: str) -> set[str]:
        """Return the identities of all stores that were ever used at an address."""
        return (await self.by_url()).get(url, set())

    async def by_url(self) -> dict[str, set[str]]:
        """Return the identities of all stores that were ever used, by their addresses."""
        known = await self._database.read(read_stores)
        self._seen |= {(url, store_id) for url, store_ids in known.items() for store_id in store_ids}
        return known

    def has_seen(self, store_id: str, url: str) -> bool:
        """Tell whether this process has read that a store lies at an address; no record of that is ever removed."""
        return (url, store_id) in self._seen

    def was_new(self, url: str) -> bool:
        """Tell whether an address was found to be that of a new store a moment ago, and none was used there since."""
        noted_at = self._new_at.get(url)
        if noted_at is None or time.monotonic() - noted_at > _NEW_SECONDS:
            return False
        return all(seen_url != url for seen_url, _ in self._seen)

    def note_new(self, url: str) -> None:
        """Remember for a moment that no store was ever used at an address, nor lies above or below it."""
        self._new_at[url] = time.monotonic()

    async def move_asset(self, job: Job, asset: Asset, *, store_id: str | None, store: str, detail: str) -> bool:
        """Record the new place of a stored row's file.

        Args:
            job: The row.
            asset: Its asset, at the new place.
            store_id: Identity of the store there.
            store: Name of that store.
            detail: Why, for the history.

        Returns:
            False where the row has changed since it was read.
        """
        async with self._database.writing() as connection:
            moved = await connection.execute(
                update(jobs_table)
                .where(
                    jobs_table.c.id == job.id,
                    jobs_table.c.state == State.STORED,
                    jobs_table.c.store_id == job.store_id,
                )
                .values(asset=asset, store_id=store_id, store=store, updated_at=datetime.now(UTC))
            )
            if moved.rowcount == 1:
                await self._append_history(connection, [(job.id, State.STORED, State.STORED)], detail)
            return moved.rowcount == 1

    async def propose_store_id(self, url: str) -> str:
        """Return the identity that a store without a marker is to get: the same for all who ask at once."""
        async with self._database.writing() as connection:
            await self._lock_stores(connection)
            found = await connection.execute(select(func.min(stores.c.store_id)).where(stores.c.url == url))
            store_id = found.scalar_one()
            if store_id is None:
                store_id = str(uuid.uuid4())
                await connection.execute(insert(stores).values(url=url, store_id=store_id))
        self._seen.add((url, store_id))
        return str(store_id)

    async def remember_store(self, store_id: str, url: str) -> None:
        """Record that a store lies at an address; again it does nothing."""
        if self.has_seen(store_id, url):
            return
        async with self._database.writing() as connection:
            await self._lock_stores(connection)
            known = await connection.execute(
                select(stores.c.store_id).where(stores.c.url == url, stores.c.store_id == store_id)
            )
            if known.one_or_none() is None:
                await connection.execute(insert(stores).values(url=url, store_id=store_id))
        self._seen.add((url, store_id))

    async def assign_store(self, job_ids: Iterable[str], store_id: str) -> None:
        """Record that the files of stored rows were found, whole, in a store."""
        async with self._database.writing() as connection:
            for chunk in chunks(job_ids):
                await connection.execute(
                    update(jobs_table)
                    .where(jobs_table.c.id.in_(chunk), jobs_table.c.state == State.STORED)
                    .values(store_id=store_id)
                )

    async def copies_into(self, project: str) -> list[tuple[str, Asset]]:
        """Return the copies in a project of videos that are stored, each with the id of the original's row.

        One that has become the file of the row is no copy any more.
        """
        query = (
            select(copies.c.job_id, copies.c.asset, jobs_table.c.asset.label("original"))
            .join(jobs_table, copies.c.job_id == jobs_table.c.id)
            .where(copies.c.project == project, jobs_table.c.state == State.STORED)
        )
        async with self._database.reading() as connection:
            rows = list(await connection.execute(query))
        found = readable_rows(rows, lambda row: (row, _read_copy(row)))
        return [(row.job_id, asset) for row, asset in found if getattr(row.original, "uri", None) != asset.uri]

    async def copies_of(self, job_ids: Iterable[str]) -> dict[str, list[Asset]]:
        """Return the copies of rows' videos in all projects, by the rows' ids."""
        found: dict[str, list[Asset]] = {}
        async with self._database.reading() as connection:
            for chunk in chunks(job_ids):
                rows = await connection.execute(select(copies).where(copies.c.job_id.in_(chunk)))
                for asset, job_id in readable_rows(rows, lambda row: (_read_copy(row), row.job_id)):
                    found.setdefault(job_id, []).append(asset)
        return found

    async def holds_assets(self, store_ids: Collection[str]) -> bool:
        """Return whether any video is stored in one of these stores."""
        stored = jobs_table.c.state == State.STORED
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(exists().where(stored, jobs_table.c.store_id.in_(sorted(store_ids))))
            )
            return bool(found.scalar_one())

    async def stored_beside(self, job: Job, *, limit: int) -> list[Job]:
        """Return other stored rows of a row's store, of all projects: the newest, and those next to it in time.

        Args:
            job: The row.
            limit: The most rows of each kind: newest, before it, after it.
        """
        of_store = jobs_table.c.store == job.store
        if job.store_id is not None:
            # Rows of versions without markers name their store only.
            unmarked = and_(jobs_table.c.store_id.is_(None), of_store)
            of_store = or_(jobs_table.c.store_id == job.store_id, unmarked)
        beside = JOBS.where(of_store, jobs_table.c.state == State.STORED, jobs_table.c.id != job.id).limit(limit)
        created_at = jobs_table.c.created_at
        queries = (
            beside.order_by(created_at.desc()),
            beside.where(created_at <= job.created_at).order_by(created_at.desc()),
            beside.where(created_at >= job.created_at).order_by(created_at),
        )
        found: dict[str, Job] = {}
        async with self._database.reading() as connection:
            for query in queries:
                rows = await connection.execute(query)
                found.update((job.id, job) for job in readable_rows(rows, job_from_row))
        return list(found.values())

    async def projects(self) -> list[str]:
        """Return the names of all projects that have a stored video or a copy of one, sorted."""
        async with self._database.reading() as connection:
            stored = await connection.execute(
                select(jobs_table.c.project).where(jobs_table.c.state == State.STORED).distinct()
            )
            copied = await connection.execute(select(copies.c.project).distinct())
            return sorted({*stored.scalars(), *copied.scalars()})

    async def _lock_stores(self, connection: AsyncConnection) -> None:
        if not self._database.is_sqlite:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({STORE_LOCK})"))


def _read_copy(row: Row[Any]) -> Asset:
    asset: Asset = require_readable(row.asset, table=copies.name, row_id=row.job_id, column="asset")
    return asset
