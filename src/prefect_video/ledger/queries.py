"""Reading rows: one, many, those under way, those stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, select

from prefect_video.assets import Asset
from prefect_video.ledger.lookup import answer, key_of, read_existing, read_stored
from prefect_video.ledger.part import BY_ID, LedgerPart, chunks, no_such_entry
from prefect_video.ledger.records import OCCUPYING, UNFINISHED, Entry, Intent, State, Step
from prefect_video.ledger.tables import ENTRIES, copies, entry_of, generations, history

_BY_GENERATION: Final = ENTRIES.where(
    generations.c.account == bindparam("at"), generations.c.generation_id == bindparam("sought")
)


class Queries(LedgerPart):
    """What the ledger knows."""

    async def now(self) -> datetime:
        """The time by the clock of the ledger, which `sent_at` and `unknown_at` are told in."""
        async with self._database.reading() as connection:
            return await self._database.now(connection)

    async def get(self, entry_id: str) -> Entry:
        """One row.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.reading() as connection:
            row = (await connection.execute(BY_ID, {"sought": entry_id})).one_or_none()
        if row is None:
            raise no_such_entry(entry_id)
        return entry_of(row)

    async def get_many(self, entry_ids: Iterable[str]) -> list[Entry]:
        """Rows by their ids, in the order asked for; ids that are not in the ledger are left out."""
        wanted = list(dict.fromkeys(entry_ids))
        found: dict[str, Entry] = {}
        async with self._database.reading() as connection:
            for some in chunks(wanted):
                rows = await connection.execute(ENTRIES.where(generations.c.id.in_(some)))
                found.update((row.id, entry_of(row)) for row in rows)
        return [found[entry_id] for entry_id in wanted if entry_id in found]

    async def moved(self, entry_ids: Iterable[str], *, out_of: State) -> list[Entry]:
        """Those of some rows that are no longer in a state."""
        found: list[Entry] = []
        async with self._database.reading() as connection:
            for some in chunks(entry_ids):
                query = ENTRIES.where(generations.c.id.in_(some), generations.c.state != out_of)
                found.extend(entry_of(row) for row in await connection.execute(query))
        return found

    async def carried(self, entry_ids: Iterable[str]) -> dict[str, str | None]:
        """The owners of those of some rows that are under way and on which no human is to decide."""
        g = generations.c
        found: dict[str, str | None] = {}
        async with self._database.reading() as connection:
            for some in chunks(entry_ids):
                query = select(g.id, g.owner).where(g.id.in_(some), g.state.in_(UNFINISHED), g.attention.is_(None))
                found.update((row.id, row.owner) for row in await connection.execute(query))
        return found

    async def find_generation(self, account: str, generation_id: str) -> Entry | None:
        """The row of a provider's generation."""
        async with self._database.reading() as connection:
            named = {"at": account, "sought": generation_id}
            row = (await connection.execute(_BY_GENERATION, named)).one_or_none()
        return None if row is None else entry_of(row)

    async def find_stored(
        self, fingerprints: Iterable[str], *, environment: str, ttl_seconds: float | None = None
    ) -> dict[str, Entry]:
        """The newest stored row of each fingerprint that has one, not older than `ttl_seconds`."""
        since = None if ttl_seconds is None else datetime.now(UTC) - timedelta(seconds=ttl_seconds)
        keys = [(environment, fingerprint) for fingerprint in fingerprints]
        async with self._database.reading() as connection:
            stored = await read_stored(connection, keys, since)
        return {fingerprint: entry for (_, fingerprint), entry in stored.items()}

    async def answers(self, intents: Sequence[Intent]) -> list[Entry | None]:
        """For each intent the row that a claim would find: stored, under way, or held; None where it would buy."""
        async with self._database.reading() as connection:
            existing = await read_existing(connection, intents)
        now = datetime.now(UTC)
        return [answer(existing.get(key_of(intent), ()), intent, now) for intent in intents]

    async def unfinished(
        self,
        *,
        environment: str | None = None,
        project: str | None = None,
        flow_run_id: str | None = None,
        account: str | None = None,
    ) -> list[Entry]:
        """Rows under way, oldest first."""
        return await self._select(
            generations.c.state.in_(UNFINISHED),
            *_equal(environment=environment, project=project, flow_run_id=flow_run_id, account=account),
        )

    async def entries(
        self,
        *,
        project: str | None = None,
        state: State | None = None,
        limit: int | None = 100,
        attention: bool | None = None,
        flow_run_id: str | None = None,
    ) -> list[Entry]:
        """Rows, newest first; `attention` picks those that wait (or do not wait) for a human."""
        conditions = _equal(project=project, state=state, flow_run_id=flow_run_id)
        if attention is not None:
            flagged = generations.c.attention
            conditions.append(flagged.is_not(None) if attention else flagged.is_(None))
        return await self._select(*conditions, newest_first=True, limit=limit)

    async def history(self, entry_id: str) -> list[Step]:
        """A row's steps, oldest first."""
        columns = (history.c[name] for name in Step.model_fields)
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(*columns).where(history.c.entry_id == entry_id).order_by(history.c.id)
            )
            return [Step.model_validate(row._asdict()) for row in found]

    async def recorded_generations(self, account: str) -> dict[str, datetime]:
        """Return the ids of the account's generations, and when each was recorded."""
        async with self._database.reading() as connection:
            found = await connection.execute(
                select(
                    generations.c.generation_id,
                    func.coalesce(generations.c.submitted_at, generations.c.created_at).label("recorded_at"),
                ).where(generations.c.account == account, generations.c.generation_id.is_not(None))
            )
            return {str(row.generation_id): row.recorded_at for row in found}

    async def occupied(self, account: str) -> int:
        """How many generations the provider may be working on for an account."""
        return await self._count(generations.c.account == account, generations.c.state.in_(OCCUPYING))

    async def submissions_since(self, account: str, at: datetime) -> int:
        """How many requests of an account were sent since a time, those included that were turned away."""
        sent = (
            select(func.count())
            .select_from(history.join(generations, history.c.entry_id == generations.c.id))
            .where(
                history.c.to_state == State.SUBMITTING,
                history.c.from_state == State.RESERVED,
                history.c.at >= at,
                generations.c.account == account,
            )
        )
        async with self._database.reading() as connection:
            return (await connection.execute(sent)).scalar_one()

    async def copies(self, entry_ids: Iterable[str], project: str) -> dict[tuple[str, str], Asset]:
        """Copies of stored videos in a project, by entry id and shot id."""
        found: dict[tuple[str, str], Asset] = {}
        async with self._database.reading() as connection:
            for some in chunks(entry_ids):
                rows = await connection.execute(
                    select(copies).where(copies.c.project == project, copies.c.entry_id.in_(some))
                )
                found.update(((row.entry_id, row.shot_id), row.asset) for row in rows)
        return found

    async def record_copy(self, entry_id: str, project: str, shot_id: str, asset: Asset) -> None:
        """Records that a stored video was copied into another project, in place of an earlier copy.

        Raises:
            LedgerError: There is no such row.
        """
        async with self._database.writing() as connection:
            await self._locked(connection, entry_id)
            await connection.execute(
                delete(copies).where(
                    copies.c.entry_id == entry_id, copies.c.project == project, copies.c.shot_id == shot_id
                )
            )
            await connection.execute(
                insert(copies).values(entry_id=entry_id, project=project, shot_id=shot_id, asset=asset)
            )

    async def _select(
        self, *conditions: ColumnElement[bool], newest_first: bool = False, limit: int | None = None
    ) -> list[Entry]:
        order = (generations.c.created_at, generations.c.id)
        query = ENTRIES.where(*conditions).limit(limit)
        query = query.order_by(*(column.desc() for column in order)) if newest_first else query.order_by(*order)
        async with self._database.reading() as connection:
            return [entry_of(row) for row in await connection.execute(query)]

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        async with self._database.reading() as connection:
            found = await connection.execute(select(func.count()).select_from(generations).where(*conditions))
            return found.scalar_one()


def _equal(**wanted: Any) -> list[ColumnElement[bool]]:
    return [generations.c[name] == value for name, value in wanted.items() if value is not None]
