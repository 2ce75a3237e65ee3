"""The guarded steps of a row: each checks where the row stands, moves it, and leaves a line of history."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from prefect_video.assets import Asset
from prefect_video.errors import IllegalTransition, ProviderError, VideoError
from prefect_video.generations import Generation
from prefect_video.ledger.base import LedgerPart
from prefect_video.ledger.budgets import usd
from prefect_video.ledger.cost_bound import (
    DEFAULT_COST_BOUND,
    CostBound,
    cost_columns,
    with_dispute,
    without_dispute,
)
from prefect_video.ledger.records import TRANSITIONS, UNFINISHED, Entry, State
from prefect_video.ledger.tables import ENTRY_COLUMNS, entry_of, generations

logger = logging.getLogger(__name__)

SENT: Final = frozenset({State.SUBMITTING, State.UNKNOWN})
"""A request is on its way, or was, and its answer is not on record."""


class Moves(LedgerPart):
    """The base of all steps of a row."""

    async def _move(
        self,
        connection: AsyncConnection,
        entry: Entry,
        to: State,
        allowed: Collection[State],
        detail: str | None = None,
        **values: Any,
    ) -> Entry:
        """Moves a row that was read in this transaction; a move settles what a human was asked, but for its cost."""
        if entry.state not in allowed or to not in TRANSITIONS.get(entry.state, ()):
            raise _illegal(entry, to, allowed)
        values = {"attention": None, **values, "state": to}
        if to not in UNFINISHED:
            values["owner"] = None
            values["attention"] = with_dispute(
                entry.model_copy(update=values), values["attention"], self.command_option
            )
        moved = await self._change(connection, entry, values)
        await self._note(connection, [(entry.id, entry.state, to)], detail)
        logger.info("entry %s (%s): %s -> %s", entry.id, entry.shot.id, entry.state, to)
        return moved

    async def _change(self, connection: AsyncConnection, entry: Entry, values: dict[str, Any]) -> Entry:
        told = {"changed": entry.id, "changed_from": entry.state, **values, "updated_at": datetime.now(UTC)}
        changed = (await connection.execute(_changing(frozenset(values)), told)).one_or_none()
        if changed is None:
            raise IllegalTransition(f"entry {entry.id} is no longer {entry.state}: read it again")
        return entry_of(changed)

    def _demand_mine(self, entry: Entry) -> None:
        """Only a row's owner may send it."""
        if entry.owner != self._owner.id:
            raise IllegalTransition(
                f"entry {entry.id} may not be sent: it belongs to {entry.owner or 'nobody'}, not to this process"
            )

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
                f"shot {entry.shot.id!r}: {entry.provider} says that generation {generation_id} is its; it belongs"
                f" to entry {other}: one generation is one video. Tell the provider; see: prefect-video jobs"
            )

    async def _demand_none_under_way(self, connection: AsyncConnection, entry: Entry) -> None:
        found = await connection.execute(
            select(generations.c.id).where(
                generations.c.environment == entry.environment,
                generations.c.fingerprint == entry.fingerprint,
                generations.c.state.in_(UNFINISHED),
                generations.c.id != entry.id,
            )
        )
        if (other := found.scalar_one_or_none()) is not None:
            raise IllegalTransition(
                f"entry {entry.id} cannot be taken up again while entry {other} of the same video is under way"
            )


@cache
def _changing(names: frozenset[str]) -> ReturningUpdate[Any]:
    """The statement that changes these columns of one row, while it is in the state that it was read in.

    There are about twenty, and building one takes longer than running it.
    """
    return (
        update(generations)
        .where(generations.c.id == bindparam("changed"), generations.c.state == bindparam("changed_from"))
        .values({name: bindparam(name) for name in sorted({*names, "updated_at"})})
        .returning(*ENTRY_COLUMNS)
    )


def sources(to: State) -> frozenset[State]:
    """From where a state can be reached."""
    return frozenset(state for state, targets in TRANSITIONS.items() if to in targets)


def demand_same(entry: Entry, generation_id: str) -> None:
    """Refuses news of another generation than the row's.

    Raises:
        IllegalTransition: It is another one.
    """
    if entry.generation_id not in (None, generation_id):
        raise IllegalTransition(f"entry {entry.id} belongs to generation {entry.generation_id}, not to {generation_id}")


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def cause(error: VideoError | str) -> dict[str, Any]:
    """The columns that say why."""
    if isinstance(error, str):
        return {"error_type": None, "error_message": error}
    request_id = error.request_id if isinstance(error, ProviderError) else None
    return {
        "error_type": type(error).__name__,
        "error_message": error.message,
        **given(request_id=request_id),
    }


def _illegal(entry: Entry, to: State, allowed: Collection[State]) -> IllegalTransition:
    needed = " or ".join(sorted(allowed))
    return IllegalTransition(
        f"entry {entry.id} is {entry.state} and cannot become {to} (it would have to be {needed}): "
        "somebody else moved it, read it again"
    )


_ENDED: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})


class Transitions(Moves):
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

    async def renew_submit(self, entry_id: str) -> Entry:
        """Marks anew that the request is about to leave, after a pause in which others may have taken the row over."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            self._demand_mine(entry)
            if entry.state is not State.SUBMITTING:
                raise IllegalTransition(f"entry {entry.id} is {entry.state}: it is no longer to be sent")
            self._database.require_file()
            await self._note(connection, [(entry.id, entry.state, entry.state)], "about to be sent after a pause")
            return await self._change(connection, entry, {"sent_at": await self._database.now(connection)})

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
                SENT,
                detail=detail,
                generation_id=generation.id,
                submitted_at=datetime.now(UTC),
                error_type=None,
                error_message=None,
                **given(estimated_completion_at=generation.estimated_completion_at),
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
                unknown_at=await self._database.now(connection),
                **cause(error),
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
                SENT,
                detail=detail,
                sent_at=None,
                unknown_at=None,
                error_type=None,
                error_message=None,
            )

    async def release(self, entry_id: str, error: VideoError | str) -> Entry:
        """Ends a row for which nothing was accepted: its money is free again."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.RELEASED:
                return entry
            if entry.state in SENT:
                self._demand_verdict(entry)
            return await self._move(
                connection,
                entry,
                State.RELEASED,
                sources(State.RELEASED),
                detail=str(error),
                **cause(error),
            )

    async def record_completed(
        self, entry_id: str, generation: Generation, *, bound: CostBound = DEFAULT_COST_BOUND
    ) -> Entry:
        """Records that the video is ready; on a completed row it only takes over a fresh expiry and cost.

        A cost beyond the bound does not keep the video from being fetched: the row is held once that is stored.
        """
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            told = cost_columns(entry, generation.cost_usd, bound) | given(
                expires_at=generation.result.expires_at if generation.result else None
            )
            demand_same(entry, generation.id)
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

    async def record_stored(self, entry_id: str, asset: Asset, *, store_id: str | None = None) -> Entry:
        """Records the published file; again with the same content it does nothing.

        Args:
            entry_id: The row.
            asset: What was published.
            store_id: Identity of the store that it was published to.
        """
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.STORED and entry.asset and entry.asset.sha256 == asset.sha256:
                return entry
            return await self._move(
                connection,
                entry,
                State.STORED,
                {State.COMPLETED},
                # One that was fetched again is as old as it was.
                stored_at=entry.stored_at or datetime.now(UTC),
                asset=asset,
                store_id=store_id,
                error_type=None,
                error_message=None,
            )

    async def reopen_stored(self, entry_id: str, reason: str) -> Entry:
        """Record that a stored file is missing or damaged and is to be fetched again from the provider.

        The row is completed again and belongs to nobody: a claim, or `collect`, takes it up. Again it does nothing.
        """
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.is_reopened:
                return entry
            if entry.generation_id is None:
                raise IllegalTransition(f"entry {entry_id} has no generation that its video could be fetched from")
            await self._demand_none_under_way(connection, entry)
            return await self._move(
                connection, entry, State.COMPLETED, {State.STORED}, detail=reason, error_type=None, error_message=reason
            )

    async def record_ended(
        self,
        entry_id: str,
        state: State,
        error: VideoError | str,
        *,
        actual_usd: Decimal | None,
        attention: str | None = None,
        bound: CostBound = DEFAULT_COST_BOUND,
    ) -> Entry:
        """Records that the generation is over and there is no video.

        Args:
            entry_id: The row.
            state: `failed`, `cancelled`, `expired` or `lost`.
            error: Why; a provider's error also gives its generation and request ids.
            actual_usd: What it cost; None when not known: then what was reserved counts as spent.
            attention: What a human is to decide; until then nothing is bought in its place. In the same transaction
                as the end: a crash in between would leave a row that the next run buys again.
            bound: The most that it is believed to have cost; beyond it the row is held.
        """
        if state not in _ENDED:
            raise IllegalTransition(f"entry {entry_id} cannot end as {state}: that is not an end without a video")
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is state:
                return entry
            values = cause(error) | cost_columns(entry, actual_usd, bound) | given(attention=attention)
            if entry.generation_id is None and isinstance(error, ProviderError) and error.generation_id:
                await self._demand_new(connection, entry, error.generation_id)
                values |= {"generation_id": error.generation_id, "submitted_at": datetime.now(UTC)}
            return await self._move(connection, entry, state, sources(state) & UNFINISHED, detail=str(error), **values)

    async def record_found(
        self, entry_id: str, generation: Generation, *, deadline_at: datetime | None = None
    ) -> Entry:
        """Records that what was given up as lost is at the provider after all: it is waited for like any other."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            await self._demand_new(connection, entry, generation.id)
            await self._demand_none_under_way(connection, entry)
            return await self._move(
                connection,
                entry,
                State.SUBMITTED,
                {State.LOST},
                detail="found again",
                generation_id=generation.id,
                submitted_at=entry.submitted_at or datetime.now(UTC),
                deadline_at=deadline_at,
                completed_at=None,
                stored_at=None,
                asset=None,
                error_type=None,
                error_message=None,
            )

    async def record_missing(self, entry_id: str, detail: str) -> Entry:
        """Records that a stored file is gone, here and at the provider: the fingerprint may be bought again."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state is State.LOST and entry.stored_at is not None:
                return entry
            allowed = {State.STORED, State.COMPLETED} if entry.is_reopened else {State.STORED}
            return await self._move(connection, entry, State.LOST, allowed, detail=detail, error_message=detail)

    async def flag(self, entry_id: str, attention: str) -> Entry:
        """Marks a row for a human: nobody carries it on by itself until it moves or is unflagged."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.state not in UNFINISHED:
                attention = with_dispute(entry, attention, self.command_option) or attention
            if entry.attention == attention:
                return entry
            await self._note(connection, [(entry.id, entry.state, entry.state)], f"needs attention: {attention}")
            logger.warning("entry %s (%s) needs attention: %s", entry.id, entry.shot.id, attention)
            return await self._change(connection, entry, {"attention": attention})

    async def unflag(self, entry_id: str) -> Entry:
        """Takes the mark for a human away; a finished row whose cost is disputed stays held for that."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            left = None if entry.state in UNFINISHED else with_dispute(entry, None, self.command_option)
            if entry.attention == left:
                return entry
            await self._note(connection, [(entry.id, entry.state, entry.state)], "attention: settled")
            return await self._change(connection, entry, {"attention": left})

    async def settle_cost(self, entry_id: str, actual_usd: Decimal) -> Entry:
        """Books what a human has found that a generation cost, in place of a cost that is disputed."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.disputed_usd is None:
                raise IllegalTransition(f"entry {entry.id} has no disputed cost: there is nothing to settle")
            detail = f"cost settled as {usd(actual_usd)}; {entry.provider} says {usd(entry.disputed_usd)}"
            await self._note(connection, [(entry.id, entry.state, entry.state)], detail)
            settled = {
                "actual_usd": actual_usd,
                "disputed_usd": None,
                "attention": without_dispute(entry, self.command_option),
            }
            return await self._change(connection, entry, settled)

    async def rebook(self, entry_id: str, *, account: str, credentials: str) -> Entry:
        """Books a row under another account: one that sends it first, or whose key has replaced the row's."""
        async with self._database.writing() as connection:
            entry = await self._locked(connection, entry_id)
            if entry.account == account:
                return entry
            detail = f"booked under account {account}, before under {entry.account}"
            await self._note(connection, [(entry.id, entry.state, entry.state)], detail)
            return await self._change(connection, entry, {"account": account, "credentials": credentials})

    async def set_deadline(self, entry_id: str, deadline_at: datetime | None) -> Entry:
        """Sets until when the generation is waited for."""
        async with self._database.writing() as connection:
            return await self._change(
                connection, await self._locked(connection, entry_id), {"deadline_at": deadline_at}
            )

    async def _begin(
        self, connection: AsyncConnection, entry: Entry, *, task_run_id: str | None, deadline_at: datetime | None
    ) -> Entry:
        self._demand_mine(entry)
        self._database.require_file()
        return await self._move(
            connection,
            entry,
            State.SUBMITTING,
            {State.RESERVED},
            sent_at=await self._database.now(connection),
            waiting_since=None,
            **given(task_run_id=task_run_id, deadline_at=deadline_at),
        )


class Strays(LedgerPart):
    """Rows for what nobody meant to buy, so that the books and whoever reads them know of it."""

    async def record_stray(self, stray: Entry, detail: str) -> None:
        """Adds a finished row for a generation that no row owns.

        Raises:
            IllegalTransition: A row owns it.
        """
        now = datetime.now(UTC)
        values = {name: getattr(stray, name) for name in Entry.model_fields}
        async with self._database.writing() as connection:
            await connection.execute(
                insert(generations).values(
                    **values | {"model": stray.shot.model, "owner": None, "created_at": now, "updated_at": now}
                )
            )
            await self._note(connection, [(stray.id, None, stray.state)], detail)
