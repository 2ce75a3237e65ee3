"""Project requests: projects that clients of the service have requested, kept until their runs have ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import Row, or_, select, update

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.records import Requester
from prefect_video.ledger.row_records import readable_rows, record_from_row
from prefect_video.ledger.tables import project_requests
from prefect_video.projects import Project


class ProjectRequest(BaseModel):
    """One requested project.

    Attributes:
        id: Its id, which is also the run that its jobs are recorded under.
        environment: The environment that it was requested in.
        requester: The client that is charged.
        project: The shots.
        refresh: Buy again what is stored.
        owner: The ledger instance that runs it; None where another process does, or none.
        created_at: When it was requested.
        ended_at: When its run ended.
        flow_run_id: The flow run of Prefect that makes it; None where the service does.
        error: Why not every shot is stored, once it has ended.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    environment: str
    requester: Requester
    project: Project
    refresh: bool = False
    owner: str | None = None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    flow_run_id: str | None = None
    error: str | None = None


class ProjectRequests(LedgerBase):
    """Requested projects; each is run by one owner, and by another one when that has died."""

    async def add(self, request: ProjectRequest) -> None:
        """Record a request before its run begins; one that is recorded already stays as it is."""
        values = {name: getattr(request, name) for name in ProjectRequest.model_fields}
        async with self._database.writing() as connection:
            await connection.execute(self._database.insert_missing(project_requests).values(**values))

    async def find(self, request_id: str) -> ProjectRequest | None:
        """Read one request; None where there is none."""
        async with self._database.reading() as connection:
            query = select(project_requests).where(project_requests.c.id == request_id)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _from_row(row)

    async def unfinished(self, environment: str) -> list[ProjectRequest]:
        """Read the requests of an environment whose runs have not ended, oldest first."""
        columns = project_requests.c
        query = select(project_requests).where(columns.ended_at.is_(None), columns.environment == environment)
        async with self._database.reading() as connection:
            found = await connection.execute(query.order_by(columns.created_at))
            return list(readable_rows(found, _from_row))

    async def take(self, request: ProjectRequest) -> bool:
        """Become the owner of an unfinished request, unless a living process is; return whether it is owned now."""
        columns = project_requests.c
        async with self._database.writing() as connection:
            if request.owner and await self._owner.alive(connection, [request.owner]):
                return False
            free = columns.owner.is_(None) if request.owner is None else columns.owner == request.owner
            taken = await connection.execute(
                update(project_requests)
                .where(columns.id == request.id, columns.ended_at.is_(None), free)
                .values(owner=self._owner.id)
            )
        return bool(taken.rowcount)

    async def record_flow_run(self, request_id: str, flow_run_id: str) -> None:
        """Record which flow run makes a project."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(project_requests).where(project_requests.c.id == request_id).values(flow_run_id=flow_run_id)
            )

    async def release(self, request_id: str) -> None:
        """Give up the ownership of a request, so that another process may run it at once."""
        columns = project_requests.c
        async with self._database.writing() as connection:
            await connection.execute(
                update(project_requests)
                .where(columns.id == request_id, or_(columns.owner == self._owner.id, columns.owner.is_(None)))
                .values(owner=None)
            )

    async def end(self, request_id: str, error: str | None) -> None:
        """Record that a run has ended, and why not every shot is stored."""
        columns = project_requests.c
        async with self._database.writing() as connection:
            await connection.execute(
                update(project_requests)
                .where(columns.id == request_id, columns.ended_at.is_(None))
                .values(ended_at=datetime.now(UTC), error=error, owner=None)
            )


def _from_row(row: Row[Any]) -> ProjectRequest:
    return record_from_row(row, ProjectRequest, project_requests.name)
