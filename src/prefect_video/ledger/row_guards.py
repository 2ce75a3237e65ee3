"""Guards of a row: each step checks where the row stands, moves it, and leaves a line of history."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from prefect_video.errors import InvalidTransition, ProviderError, VideoError
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.cost_bound import with_dispute
from prefect_video.ledger.records import TRANSITIONS, UNFINISHED, Job, State
from prefect_video.ledger.tables import JOB_COLUMNS, job_from_row, jobs_table

logger = logging.getLogger(__name__)

_BY_GENERATION: Final = select(jobs_table.c.id).where(
    jobs_table.c.account == bindparam("account"), jobs_table.c.generation_id == bindparam("generation_id")
)


class TransitionBase(LedgerBase):
    """The base of all steps of a row."""

    async def _move(
        self,
        connection: AsyncConnection,
        job: Job,
        to: State,
        allowed: Collection[State],
        detail: str | None = None,
        **values: Any,
    ) -> Job:
        """Move a row that was read in this transaction; that settles what a human was asked, but for its cost."""
        # The step allows fewer states than the table of all steps; neither may widen the other.
        if job.state not in allowed or to not in TRANSITIONS.get(job.state, ()):
            raise _illegal(job, to, allowed)
        values = {"hold_reason": None, "left_count": 0, "left_reason": None, **values, "state": to}
        if to not in UNFINISHED:
            # Nothing is left that could be taken over.
            values["owner"] = None
            values["hold_reason"] = with_dispute(
                job.model_copy(update=values), values["hold_reason"], self._command_option
            )
        moved = await self._change(connection, job, values)
        await self._append_history(connection, [(job.id, job.state, to)], detail)
        logger.info("job %s (%s): %s -> %s", job.id, job.shot.id, job.state, to)
        return moved

    async def _change(self, connection: AsyncConnection, job: Job, values: dict[str, Any]) -> Job:
        parameters = {"changed": job.id, "changed_from": job.state, **values, "updated_at": datetime.now(UTC)}
        # The statement itself requires the state that was read: a step that was decided on it cannot come too late.
        changed = (await connection.execute(_changing(frozenset(values)), parameters)).one_or_none()
        if changed is None:
            raise InvalidTransition(f"job {job.id} is no longer {job.state}: read it again")
        return job_from_row(changed)

    def _require_owner(self, job: Job) -> None:
        """Refuse a send by any process but the row's owner."""
        if job.owner != self._owner.id:
            raise InvalidTransition(
                f"job {job.id} may not be sent: it belongs to {job.owner or 'no one'}, not to this process"
            )

    def _require_settle_right(self, job: Job) -> None:
        """Refuse a verdict on a sent request by any process but its owner, which may be sending it now."""
        # A held row is a human's to settle, from any process.
        if job.owner not in (None, self._owner.id) and job.hold_reason is None:
            raise InvalidTransition(
                f"job {job.id} is {job.state} and belongs to {job.owner}: take it over before settling it"
            )

    async def _require_new_generation(self, connection: AsyncConnection, job: Job, generation_id: str) -> None:
        found = await connection.execute(_BY_GENERATION, {"account": job.account, "generation_id": generation_id})
        if (other := found.scalar_one_or_none()) is not None and other != job.id:
            raise InvalidTransition(
                f"shot {job.shot.id!r}: {job.provider} says that generation {generation_id} is its; it belongs"
                f" to job {other}: one generation is one video. Tell the provider; see: prefect-video jobs"
            )

    async def _require_no_active_job(self, connection: AsyncConnection, job: Job) -> None:
        found = await connection.execute(
            select(jobs_table.c.id).where(
                jobs_table.c.environment == job.environment,
                jobs_table.c.fingerprint == job.fingerprint,
                jobs_table.c.state.in_(UNFINISHED),
                jobs_table.c.id != job.id,
            )
        )
        if (other := found.scalar_one_or_none()) is not None:
            raise InvalidTransition(
                f"job {job.id} cannot be taken up again while job {other} of the same video is in progress"
            )


@cache
def _changing(names: frozenset[str]) -> ReturningUpdate[Any]:
    """Build the statement that changes these columns of one row if it is still in the state it was read in.

    There are about twenty, and building one takes longer than running it.
    """
    return (
        update(jobs_table)
        .where(jobs_table.c.id == bindparam("changed"), jobs_table.c.state == bindparam("changed_from"))
        .values({name: bindparam(name) for name in sorted({*names, "updated_at"})})
        .returning(*JOB_COLUMNS)
    )


def source_states(to: State) -> frozenset[State]:
    """Return the states from which a state can be reached."""
    return frozenset(state for state, targets in TRANSITIONS.items() if to in targets)


def require_same_generation(job: Job, generation_id: str) -> None:
    """Refuse a report on another generation than the row's.

    Raises:
        InvalidTransition: It is another one.
    """
    if job.generation_id not in (None, generation_id):
        raise InvalidTransition(f"job {job.id} belongs to generation {job.generation_id}, not to {generation_id}")


def drop_none(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def error_columns(error: VideoError | str) -> dict[str, Any]:
    """Build the columns that record an error."""
    if isinstance(error, str):
        return {"error_type": None, "error_message": error}
    request_id = error.request_id if isinstance(error, ProviderError) else None
    return {
        "error_type": type(error).__name__,
        "error_message": error.message,
        **drop_none(request_id=request_id),
    }


def _illegal(job: Job, to: State, allowed: Collection[State]) -> InvalidTransition:
    needed = " or ".join(sorted(allowed))
    return InvalidTransition(
        f"job {job.id} is {job.state} and cannot become {to} (it would have to be {needed}): "
        "another process moved it, read it again"
    )
