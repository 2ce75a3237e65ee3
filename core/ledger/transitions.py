"""The guarded steps of a row: each checks where the row stands, moves it, and leaves a line of history."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.assets import Asset
from prefect_video.errors import IllegalTransition, ProviderError, VideoError
from prefect_video.generations import Generation
from prefect_video.ledger.part import LedgerPart
from prefect_video.ledger.records import TRANSITIONS, UNFINISHED, Entry, State
from prefect_video.ledger.tables import ENTRY_COLUMNS, entry_of, generations

logger = logging.getLogger(__name__)

_SENT: Final = frozenset({State.SUBMITTING, State.UNKNOWN})
_ENDED: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


class Transitions(LedgerPart):
    """The steps from reserved to stored. Every method returns the row as it stands afterwards.

    Raises, from every method:
        IllegalTransition: The row is not in a state that allows the step.
        LedgerError: There is no such row, or the ledger cannot be used.
    """

    async def begin_submit(
        self, entry_id: str, *, task_run_id: str | None = None, deadline_at: datetime | None = None
    ) -> Entry:
        """Marks that the request is about to leave; only the row's owner may send it."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            return await self._begin(connection, entry, task_run_id=task_run_id, deadline_at=deadline_at)

    async def record_submitted(self, entry_id: str, generation: Generation, *, detail: str | None = None) -> Entry:
        """Records that the provider accepted; again with the same generation it does nothing."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.generation_id == generation.id:
                return entry
            await self._demand_new(connection, entry, generation.id)
            return await self._move(
                connection,
                entry,
                State.SUBMITTED,
                _SENT,
                detail=detail,
                generation_id=generation.id,
                submitted_at=datetime.now(UTC),
                error_type=None,
                error_message=None,
                **_given(estimated_completion_at=generation.estimated_completion_at),
            )

    async def record_unknown(self, entry_id: str, error: VideoError | str) -> Entry:
        """Records that a request went out and no usable answer came back."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.UNKNOWN:
                return entry
            return await self._move(
                connection,
                entry,
                State.UNKNOWN,
                {State.SUBMITTING},
                detail=str(error),
                **_cause(error),
            )

    async def return_to_reserved(self, entry_id: str, detail: str) -> Entry:
        """Records that the provider has proven to hold nothing; the row may be sent again by its owner."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.RESERVED:
                return entry
            self._demand_verdict(entry)
            return await self._move(
                connection,
                entry,
                State.RESERVED,
                _SENT,
                detail=detail,
                sent_at=None,
                error_type=None,
                error_message=None,
            )

    async def release(self, entry_id: str, error: VideoError | str) -> Entry:
        """Ends a row for which nothing was accepted: its money is free again."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.RELEASED:
                return entry
            if entry.state in _SENT:
                self._demand_verdict(entry)
            return await self._move(
                connection,
                entry,
                State.RELEASED,
                _sources(State.RELEASED),
                detail=str(error),
                **_cause(error),
            )

    async def record_completed(self, entry_id: str, generation: Generation) -> Entry:
        """Records that the video is ready; on a completed row it only takes over a fresh expiry and cost."""
        told = _given(
            expires_at=generation.result.expires_at if generation.result else None,
            actual_usd=generation.cost_usd,
        )
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            _demand_same(entry, generation.id)
            if entry.state is State.STORED:
                return entry
            if entry.state is State.COMPLETED:
                return await self._change(connection, entry, told) if told else entry
            return await self._move(
                connection,
                entry,
                State.COMPLETED,
                {State.SUBMITTED},
                completed_at=datetime.now(UTC),
                **told,
            )

    async def record_stored(self, entry_id: str, asset: Asset) -> Entry:
        """Records the published file; again with the same content it does nothing."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.STORED and entry.asset and entry.asset.sha256 == asset.sha256:
                return entry
            return await self._move(
                connection,
                entry,
                State.STORED,
                {State.COMPLETED},
                stored_at=datetime.now(UTC),
                asset=asset,
                error_type=None,
                error_message=None,
            )

    async def record_ended(
        self,
        entry_id: str,
        state: State,
        error: VideoError | str,
        *,
        actual_usd: Decimal | None,
        attention: str | None = None,
    ) -> Entry:
        """Records that the generation is over and there is no video.

        Args:
            entry_id: The row.
            state: `failed`, `cancelled`, `expired` or `lost`.
            error: Why; a provider's error also gives its generation and request ids.
            actual_usd: What it cost; None when not known: then what was reserved counts as spent.
            attention: What a human is to decide; until then nothing is bought in its place. In the same transaction
                as the end: a crash in between would leave a row that the next run buys again.
        """
        if state not in _ENDED:
            raise IllegalTransition(f"entry {entry_id} cannot end as {state}: that is not an end without a video")
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is state:
                return entry
            values = {**_cause(error), **_given(actual_usd=actual_usd, attention=attention)}
            if entry.generation_id is None and isinstance(error, ProviderError) and error.generation_id:
                await self._demand_new(connection, entry, error.generation_id)
                values |= {"generation_id": error.generation_id, "submitted_at": datetime.now(UTC)}
            return await self._move(connection, entry, state, _sources(state) & UNFINISHED, detail=str(error), **values)

    async def record_missing(self, entry_id: str, detail: str) -> Entry:
        """Records that a stored file is gone from its store: the fingerprint may be bought again."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.LOST and entry.stored_at is not None:
                return entry
            return await self._move(connection, entry, State.LOST, {State.STORED}, detail=detail, error_message=detail)

    async def flag(self, entry_id: str, attention: str) -> Entry:
        """Marks a row for a human: nobody carries it on by itself until it moves or is unflagged."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.attention == attention:
                return entry
            await self._note(connection, [(entry.id, entry.state, entry.state)], f"needs attention: {attention}")
            logger.warning("entry %s (%s) needs attention: %s", entry.id, entry.shot.id, attention)
            return await self._change(connection, entry, {"attention": attention})

    async def unflag(self, entry_id: str) -> Entry:
        """Takes the mark for a human away."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.attention is None:
                return entry
            await self._note(connection, [(entry.id, entry.state, entry.state)], "attention: settled")
            return await self._change(connection, entry, {"attention": None})

    async def set_deadline(self, entry_id: str, deadline_at: datetime | None) -> Entry:
        """Sets until when the generation is waited for."""
        async with self._database.writing() as connection:
            return await self._change(
                connection, await self._locked(connection, entry_id), {"deadline_at": deadline_at}
            )

    async def _begin(
        self, connection: AsyncConnection, entry: Entry, *, task_run_id: str | None, deadline_at: datetime | None
    ) -> Entry:
        if entry.owner != self._owner.id:
            raise IllegalTransition(
                f"entry {entry.id} may not be sent: it belongs to {entry.owner or 'nobody'}, not to this process"
            )
        return await self._move(
            connection,
            entry,
            State.SUBMITTING,
            {State.RESERVED},
            sent_at=datetime.now(UTC),
            waiting_since=None,
            **_given(task_run_id=task_run_id, deadline_at=deadline_at),
        )

    async def _move(
        self,
        connection: AsyncConnection,
        entry: Entry,
        to: State,
        allowed: Collection[State],
        detail: str | None = None,
        **values: Any,
    ) -> Entry:
        """Moves a row that was read in this transaction; a move settles what a human was asked."""
        if entry.state not in allowed or to not in TRANSITIONS.get(entry.state, ()):
            raise _illegal(entry, to, allowed)
        if to not in UNFINISHED:
            values["owner"] = None
        moved = await self._change(connection, entry, {"attention": None, **values, "state": to})
        await self._note(connection, [(entry.id, entry.state, to)], detail)
        logger.info("entry %s (%s): %s -> %s", entry.id, entry.shot.id, entry.state, to)
        return moved

    async def _change(self, connection: AsyncConnection, entry: Entry, values: dict[str, Any]) -> Entry:
        changed = await connection.execute(
            update(generations)
            .where(generations.c.id == entry.id, generations.c.state == entry.state)
            .values(**values, updated_at=datetime.now(UTC))
        )
        if changed.rowcount != 1:
            raise IllegalTransition(f"entry {entry.id} is no longer {entry.state}: read it again")
        fresh = await connection.execute(select(*ENTRY_COLUMNS).where(generations.c.id == entry.id))
        return entry_of(fresh.one())

    def _demand_verdict(self, entry: Entry) -> None:
        """Only its owner may say that a sent request came to nothing: it may be on its way at this moment."""
        if entry.owner not in (None, self._owner.id) and entry.attention is None:
            raise IllegalTransition(
                f"entry {entry.id} is {entry.state} and belongs to {entry.owner}: take it over before settling it"
            )

    async def _demand_new(self, connection: AsyncConnection, entry: Entry, generation_id: str) -> None:
        found = await connection.execute(
            select(generations.c.id).where(
                generations.c.account == entry.account, generations.c.generation_id == generation_id
            )
        )
        if (other := found.scalar_one_or_none()) is not None and other != entry.id:
            raise IllegalTransition(
                f"entry {entry.id} cannot have generation {generation_id}: it belongs to entry {other}"
            )


def _sources(to: State) -> frozenset[State]:
    return frozenset(state for state, targets in TRANSITIONS.items() if to in targets)


def _illegal(entry: Entry, to: State, allowed: Collection[State]) -> IllegalTransition:
    needed = " or ".join(sorted(allowed))
    return IllegalTransition(
        f"entry {entry.id} is {entry.state} and cannot become {to} (it would have to be {needed}): "
        "somebody else moved it, read it again"
    )


def _demand_same(entry: Entry, generation_id: str) -> None:
    if entry.generation_id not in (None, generation_id):
        raise IllegalTransition(f"entry {entry.id} belongs to generation {entry.generation_id}, not to {generation_id}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _cause(error: VideoError | str) -> dict[str, Any]:
    if isinstance(error, str):
        return {"error_type": None, "error_message": error}
    request_id = error.request_id if isinstance(error, ProviderError) else None
    return {
        "error_type": type(error).__name__,
        "error_message": error.message,
        **_given(request_id=request_id),
    }
