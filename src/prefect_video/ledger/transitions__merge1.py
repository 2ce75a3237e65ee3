"""How a row moves: what every guarded step checks, writes and leaves in the history."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from prefect_video.errors import IllegalTransition, ProviderError, VideoError
from prefect_video.ledger.cost_bound import with_dispute
from prefect_video.ledger.part import LedgerPart
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
