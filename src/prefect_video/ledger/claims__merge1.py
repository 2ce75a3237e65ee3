"""Taking over the rows of dead processes, and letting go of one's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.part import LedgerPart, chunks
from prefect_video.ledger.records import UNFINISHED, Entry
from prefect_video.ledger.tables import ENTRIES, entry_of, generations
from prefect_video.unbroken import to_its_end

logger = logging.getLogger(__name__)


class Ownership(LedgerPart):
    """Who works on which row."""

    async def take_over(self, entry_id: str) -> Entry | None:
        """Makes this process the owner of an unfinished row whose owner is dead, or that has none.

        Returns:
            The row; None when it is finished or its owner is alive. That may be this very process: somebody else in
            it is at work on the row then.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state not in UNFINISHED:
                return None
            if entry.owner == self._owner.id:
                return None
            if entry.owner and await self._owner.living(connection, [entry.owner]):
                return None
            (taken,) = await self._take(connection, [(entry, None)])
            return taken if taken.owner == self._owner.id else None

    async def let_go(self, entry_ids: Iterable[str]) -> None:
        """Gives up unfinished rows that this process owns: anybody may carry them on.

        It is done even while the caller is being cancelled: a row that keeps a living owner is out of others' reach.
        """
        await to_its_end(self._let_go(entry_ids))

    async def owner_alive(self, owner_id: str) -> bool:
        """Whether the process behind an owner id still works."""
        async with self._database.reading() as connection:
            return bool(await self._owner.living(connection, [owner_id]))

    async def _let_go(self, entry_ids: Iterable[str]) -> None:
        async with self._database.writing() as connection:
            for some in chunks(entry_ids):
                await connection.execute(
                    update(generations)
                    .where(
                        generations.c.id.in_(some),
                        generations.c.owner == self._owner.id,
                        generations.c.state.in_(UNFINISHED),
                    )
                    .values(owner=None, updated_at=datetime.now(UTC))
                )

    async def _take(self, connection: AsyncConnection, free: Sequence[tuple[Entry, str | None]]) -> list[Entry]:
        """Takes `(row, flow run that carries it on)`, unless somebody else was faster; the rows as they stand now."""
        groups: dict[tuple[str | None, str | None], list[str]] = {}
        for entry, flow_run_id in free:
            groups.setdefault((entry.owner, flow_run_id), []).append(entry.id)
        for (owner, flow_run_id), ids in groups.items():
            change = update(generations).values(owner=self._owner.id, updated_at=datetime.now(UTC))
            if flow_run_id is not None:
                change = change.values(flow_run_id=flow_run_id)
            for some in chunks(ids):
                await connection.execute(
                    change.where(
                        generations.c.id.in_(some),
                        generations.c.owner.is_(None) if owner is None else generations.c.owner == owner,
                        generations.c.state.in_(UNFINISHED),
                    )
                )
        fresh: list[Entry] = []
        for some in chunks(entry.id for entry, _ in free):
            found = await connection.execute(ENTRIES.where(generations.c.id.in_(some)))
            fresh.extend(entry_of(row) for row in found)
        mine = [entry for entry in fresh if entry.owner == self._owner.id]
        await self._note(connection, ((entry.id, entry.state, entry.state) for entry in mine), "taken over")
        for entry in mine:
            logger.info("entry %s (%s) taken over as %s", entry.id, entry.shot.id, entry.state)
        return fresh
