"""Rows for what was paid and is in no row: an old backup, or another ledger, has left it out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import insert, or_, select

from prefect_video.errors import InvalidTransition, LedgerError
from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.claims import wait_for_turn
from prefect_video.ledger.database import Database
from prefect_video.ledger.existing_jobs import claim_key, read_existing, read_unfinished
from prefect_video.ledger.hold_reasons import is_given_up
from prefect_video.ledger.records import UNFINISHED, Job, State
from prefect_video.ledger.store_identities import read_stores
from prefect_video.ledger.tables import JOBS, copies, job_from_row, jobs_table, ledger_identity

_KEPT: Final = frozenset({"id", "attempt", "flow_run_id", "task_run_id", "created_at", "priority"})
"""Columns in which an existing row is more reliable than the evidence for its generation."""


async def read_opening(database: Database) -> tuple[str, dict[str, set[str]]]:
    """Read the UUID of a ledger and the identities of the stores that it knows, by their addresses.

    Raises:
        LedgerError: It has none.
    """
    async with database.reading() as connection:
        identity = (await connection.execute(select(ledger_identity.c.id).limit(1))).scalar_one_or_none()
        stores = await read_stores(connection)
    if identity is None:
        raise LedgerError(f"the ledger {database.location.name} has lost its identity: restore a backup")
    return str(identity), stores


class Recoveries(LedgerBase):
    """Restoring of jobs from evidence outside of the ledger."""

    async def paid_jobs(self, project: str | None = None) -> set[tuple[str, str]]:
        """Read `(job id, fingerprint)` of rows whose generation is known: of one project and its copies, or of all."""
        wanted = select(jobs_table.c.id, jobs_table.c.fingerprint).where(jobs_table.c.generation_id.is_not(None))
        if project is not None:
            copied = select(copies.c.job_id).where(copies.c.project == project)
            wanted = wanted.where(or_(jobs_table.c.project == project, jobs_table.c.id.in_(copied)))
        async with self._database.reading() as connection:
            return {(row.id, row.fingerprint) for row in await connection.execute(wanted)}

    async def find_paid(self, job_ids: Iterable[str], generation_ids: Iterable[str]) -> list[Job]:
        """Read the rows that have one of some ids, or one of some generations, whatever their account."""
        found: dict[str, Job] = {}
        async with self._database.reading() as connection:
            for column, values in ((jobs_table.c.id, job_ids), (jobs_table.c.generation_id, generation_ids)):
                for chunk in chunks(values):
                    rows = await connection.execute(JOBS.where(column.in_(chunk)))
                    found.update((row.id, job_from_row(row)) for row in rows)
        return list(found.values())

    async def adopt(self, job: Job, detail: str) -> Job:
        """Bring the ledger to what is proven about one generation: a row of it is moved, or one is added.

        Args:
            job: The row as it should be.
            detail: The proof, for the history.

        Returns:
            The row afterwards.

        Raises:
            InvalidTransition: A live process works on the row, it has another generation, or another row of the same
                video is in progress.
        """
        async with self._database.writing() as connection:
            await wait_for_turn(self._database, connection)
            self._database.require_file()
            same_generation = (jobs_table.c.account == job.account) & (jobs_table.c.generation_id == job.generation_id)
            found = await connection.execute(JOBS.where(or_(jobs_table.c.id == job.id, same_generation)))
            rows = [job_from_row(row) for row in found]
            current = next((row for row in rows if row.generation_id == job.generation_id), None)
            current = current or next(iter(rows), None)
            if current is not None and current.state is State.STORED:
                return current
            if current is not None:
                await self._require_free(current, job, connection)
            if job.state in UNFINISHED:
                await self._require_none_in_progress(connection, job, current)
            values = _columns(job)
            if current is None:
                await connection.execute(insert(jobs_table).values(**values))
                await self._append_history(connection, [(job.id, None, job.state)], detail)
                return job
            changes = {name: value for name, value in values.items() if name not in _KEPT}
            await connection.execute(jobs_table.update().where(jobs_table.c.id == current.id).values(**changes))
            await self._append_history(connection, [(current.id, current.state, job.state)], detail)
            return await self._locked(connection, current.id)

    async def record_manual(self, job: Job, detail: str) -> Job:
        """Record a video that was made by hand as the newest stored one of its fingerprint.

        Args:
            job: The row as it should be; one with its id is replaced.
            detail: Where it is from, for the history.

        Returns:
            The row afterwards.

        Raises:
            InvalidTransition: A generation of the same video is in progress, or ended and is held: it is, or may be,
                paid.
        """
        async with self._database.writing() as connection:
            await wait_for_turn(self._database, connection)
            self._database.require_file()
            for row in (await read_existing(connection, [job])).get(claim_key(job), ()):
                if row.state is not State.STORED and not is_given_up(row.hold_reason, shot=row.shot.id):
                    held = " and held" if row.hold_reason else ""
                    raise InvalidTransition(f"job {row.id} of the same video is {row.state}{held}: settle it first")
            found = await connection.execute(JOBS.where(jobs_table.c.id == job.id))
            current = next((job_from_row(row) for row in found), None)
            if current is None:
                await connection.execute(insert(jobs_table).values(**_columns(job)))
            else:
                await connection.execute(jobs_table.update().where(jobs_table.c.id == job.id).values(**_columns(job)))
            await self._append_history(connection, [(job.id, current.state if current else None, job.state)], detail)
            return job

    async def _require_free(self, current: Job, job: Job, connection: Any) -> None:
        if current.fingerprint != job.fingerprint:
            raise InvalidTransition(f"job {current.id} is of another video than generation {job.generation_id}")
        if current.generation_id not in (None, job.generation_id):
            raise InvalidTransition(
                f"job {current.id} belongs to generation {current.generation_id}, and generation"
                f" {job.generation_id} names it too: one of them was paid twice; see the provider's console"
            )
        if current.owner and current.state in UNFINISHED:
            alive = await self._owner.alive(connection, [current.owner])
            if alive - {self._owner.id} or current.owner == self._owner.id:
                raise InvalidTransition(f"job {current.id} is {current.state} and a live process works on it")

    async def _require_none_in_progress(self, connection: Any, job: Job, current: Job | None) -> None:
        other = (await read_unfinished(connection, [claim_key(job)])).get(claim_key(job))
        if other is not None and (current is None or other.id != current.id):
            raise InvalidTransition(
                f"generation {job.generation_id} is of the same video as job {other.id}, which is {other.state}"
            )


def _columns(job: Job) -> dict[str, Any]:
    values = {name: getattr(job, name) for name in Job.model_fields}
    return values | {"model": job.shot.model, "owner": None}
