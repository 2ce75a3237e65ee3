"""Callbacks: calls to clients of the service that are due when a job or a project has ended."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import and_, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.records import UNFINISHED, State
from prefect_video.ledger.tables import callbacks, jobs_table, project_requests

CallbackKind = Literal["job", "project"]

_ENDED: Final = tuple(state for state in State if state not in UNFINISHED)
_NAMESPACE: Final = uuid.UUID("0b7a55f4-6d5c-4a75-9f0a-0f7f1b0f4f0e")


class Callback(BaseModel):
    """One call that is due once its subject has ended.

    Attributes:
        id: Its id, the same in every attempt, by which a receiver recognises a repetition.
        environment: The environment of the subject.
        kind: The kind of subject.
        subject: Id of the job or of the project request.
        requester: Name of the token whose secret signs it.
        url: The address to call; it may hold a secret of the client.
        created_at: When it was requested.
        next_at: When it is to be tried next.
        attempts: Attempts so far.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    environment: str
    kind: CallbackKind
    subject: str
    requester: str
    url: str = Field(repr=False)
    created_at: AwareDatetime
    next_at: AwareDatetime
    attempts: int = 0


_columns, _jobs, _projects = callbacks.c, jobs_table.c, project_requests.c
_DUE: Final = (
    select(*(_columns[name] for name in Callback.model_fields))
    .outerjoin(jobs_table, and_(_columns.kind == "job", _columns.subject == _jobs.id))
    .outerjoin(project_requests, and_(_columns.kind == "project", _columns.subject == _projects.id))
    .where(
        _columns.ended_at.is_(None),
        _columns.environment == bindparam("of"),
        _columns.next_at <= bindparam("now"),
        or_(
            and_(_jobs.state.in_(_ENDED), or_(_jobs.hold_reason.is_(None), _jobs.state == State.STORED)),
            _projects.ended_at.is_not(None),
        ),
    )
    .order_by(_columns.next_at)
    .limit(bindparam("most"))
)
"""Built once: a service looks for due calls four times a second while jobs change."""


class Callbacks(LedgerBase):
    """Calls to clients, each kept until it is answered or given up."""

    async def add(self, kind: CallbackKind, subject: str, *, requester: str, url: str, environment: str) -> None:
        """Request a call when a job or a project has ended; the same request again is the same call."""
        now = datetime.now(UTC)
        names = "\n".join((environment, kind, subject, requester, url))
        callback = Callback(
            id=f"msg_{uuid.uuid5(_NAMESPACE, names).hex}",
            environment=environment,
            kind=kind,
            subject=subject,
            requester=requester,
            url=url,
            created_at=now,
            next_at=now,
        )
        async with self._database.writing() as connection:
            statement = self._database.insert_missing(callbacks)
            await connection.execute(statement.values(**{**callback.model_dump(), "ended_at": None}))

    async def due(self, environment: str, *, limit: int = 100) -> list[Callback]:
        """Read the calls that are to be tried now: their subjects have ended. The longest due comes first."""

        async def read(connection: AsyncConnection) -> list[Callback]:
            sought = {"of": environment, "now": datetime.now(UTC), "most": limit}
            return [Callback.model_validate(row._asdict()) for row in await connection.execute(_DUE, sought)]

        return await self._database.read(read)

    async def claim(self, callback: Callback, until: datetime) -> bool:
        """Count an attempt and put the next one off, unless another process makes it; return whether it is ours."""
        columns = callbacks.c
        async with self._database.writing() as connection:
            changed = await connection.execute(
                update(callbacks)
                .where(columns.id == callback.id, columns.attempts == callback.attempts, columns.ended_at.is_(None))
                .values(attempts=callback.attempts + 1, next_at=until)
            )
        return bool(changed.rowcount)

    async def record_error(self, callback_id: str, error: str) -> None:
        """Record why an attempt failed."""
        async with self._database.writing() as connection:
            await connection.execute(update(callbacks).where(callbacks.c.id == callback_id).values(error=error))

    async def end(self, callback_id: str, error: str | None) -> None:
        """Record that a call was answered, or why it is given up."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(callbacks).where(callbacks.c.id == callback_id).values(ended_at=datetime.now(UTC), error=error)
            )
