"""Deferred runs: projects whose run has left its shots at the provider, kept until their film and page are made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import Row, case, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.records import PARTS_PREFIX
from prefect_video.ledger.row_records import readable_rows, record_from_row
from prefect_video.ledger.tables import deferred_runs, jobs_table
from prefect_video.projects import Project


class DeferredRun(BaseModel):
    """A run of a project that does not wait for its videos.

    Attributes:
        id: The run's id, which its jobs are recorded under.
        environment: The environment of its jobs.
        project: The project, as it was requested.
        credentials: Names of its accounts, the one that makes the shots first.
        store: Name of its store.
        owner: The ledger instance that works on it; None where none does.
        created_at: When it began.
        reported: Digest of what was reported last about it, so that nothing is reported twice.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    environment: str
    project: Project
    credentials: tuple[str, ...]
    store: str
    owner: str | None = None
    created_at: AwareDatetime
    reported: str | None = None


class DeferredRuns(LedgerBase):
    """Deferred runs that are not complete; each is worked on by one owner, and by another one when that has died."""

    async def begin(self, run: DeferredRun) -> None:
        """Record a run, owned by this process, before anything is sent."""
        values = {**run.model_dump(exclude={"project"}), "project": run.project, "owner": self._owner.id}
        async with self._database.writing() as connection:
            await connection.execute(delete(deferred_runs).where(deferred_runs.c.id == run.id))
            await connection.execute(insert(deferred_runs).values(values))

    async def find(self, *, project: str | None = None, run_id: str | None = None) -> list[DeferredRun]:
        """Read the runs that are not complete, oldest first; only those of a project or of a run where it is given."""
        columns = deferred_runs.c
        query = select(deferred_runs).order_by(columns.created_at, columns.id)
        if run_id is not None:
            query = query.where(columns.id == run_id)
        async with self._database.reading() as connection:
            runs = list(readable_rows(await connection.execute(query), _from_row))
        return [run for run in runs if project in (None, run.project.name)]

    async def supersede(
        self, project: Project, *, store: str, environment: str, except_for: str | None = None
    ) -> list[str]:
        """Remove the runs that a later one about some of the same shots takes the place of; return their ids."""
        shots = {shot.id for shot in project.shots}
        outdated = [
            run.id
            for run in await self.find(project=project.name)
            if (run.store, run.environment) == (store, environment)
            and run.id != except_for
            and not shots.isdisjoint(shot.id for shot in run.project.shots)
        ]
        if outdated:
            await self._remove(outdated)
        return outdated

    async def take(self, run: DeferredRun) -> bool:
        """Become the owner of a run, unless a living process is or it is complete; return whether it is owned now."""
        columns = deferred_runs.c
        async with self._database.writing() as connection:
            if run.owner and await self._owner.alive(connection, [run.owner]):
                return False
            free = columns.owner.is_(None) if run.owner is None else columns.owner == run.owner
            taken = await connection.execute(
                update(deferred_runs).where(columns.id == run.id, free).values(owner=self._owner.id)
            )
        return bool(taken.rowcount)

    async def release(self, run_id: str, *, reported: str | None = None) -> None:
        """Give up the ownership of a run that is not complete; `reported` replaces the digest where it is given."""
        columns, values = deferred_runs.c, {"owner": None, **({"reported": reported} if reported else {})}
        async with self._database.writing() as connection:
            await connection.execute(
                update(deferred_runs)
                .where(columns.id == run_id, or_(columns.owner == self._owner.id, columns.owner.is_(None)))
                .values(values)
            )

    async def complete(self, run_id: str) -> None:
        """Remove a run that nothing follows any more."""
        await self._remove([run_id])

    async def _remove(self, run_ids: Collection[str]) -> None:
        async with self._database.writing() as connection:
            await connection.execute(delete(deferred_runs).where(deferred_runs.c.id.in_(run_ids)))


def _from_row(row: Row[Any]) -> DeferredRun:
    return record_from_row(row, DeferredRun, deferred_runs.name)


async def rename_credentials(connection: AsyncConnection, account: str, credentials: str) -> None:
    """Let the runs of an account open other credentials for it, before its jobs are moved and in that transaction."""
    jobs = jobs_table.c
    used = select(jobs.environment, jobs.credentials).where(jobs.account == account).distinct()
    names = {(row.environment, row.credentials) for row in await connection.execute(used)}
    for run in list(readable_rows(await connection.execute(select(deferred_runs)), _from_row)):
        former = {
            name
            for name in run.credentials
            if (run.environment, name) in names and await _account_of(connection, run, name) == account
        }
        if former:
            renamed = dict.fromkeys(former, credentials)
            values = {
                "credentials": tuple(dict.fromkeys(renamed.get(name, name) for name in run.credentials)),
                "project": run.project.with_accounts(renamed),
            }
            await connection.execute(update(deferred_runs).where(deferred_runs.c.id == run.id).values(values))


async def _account_of(connection: AsyncConnection, run: DeferredRun, credentials: str) -> str | None:
    """Return the account that a name of credentials stood for in a run; it may stand for another by now."""
    jobs = jobs_table.c
    is_own = jobs.flow_run_id.in_((run.id, f"{PARTS_PREFIX}{run.id}"))
    nearness = case((is_own, 0), (jobs.created_at <= run.created_at, 1), else_=2)
    found = await connection.execute(
        select(jobs.account)
        .where(jobs.credentials == credentials, jobs.environment == run.environment)
        .order_by(nearness, jobs.created_at.desc())
        .limit(1)
    )
    return found.scalar_one_or_none()
