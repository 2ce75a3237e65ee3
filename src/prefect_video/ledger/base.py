"""Base of the ledger's parts: the database, the owner, reading one row, writing history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from sqlalchemy import bindparam, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import LedgerError
from prefect_video.ledger.database import Database
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import Job, State
from prefect_video.ledger.tables import JOBS, history, job_from_row, jobs_table

_Item = TypeVar("_Item")
CHUNK: Final = 500
"""Values in one `IN (…)`: below every database's limit."""

BY_ID: Final = JOBS.where(jobs_table.c.id == bindparam("sought"))
"""The row whose id is given as `sought`."""

_LOCKED: Final = BY_ID.with_for_update()
_NOTE: Final = insert(history)


class LedgerBase:
    """Base of the ledger's parts: one database, one owner.

    Args:
        database: The open database.
        owner: This process as an owner of rows.
        command_option: The value of `--ledger` by which commands find this ledger; None where they need none.
    """

    def __init__(self, database: Database, owner: Lease, command_option: str | None) -> None:
        self._database = database
        self._owner = owner
        self._command_option = command_option

    async def _locked(self, connection: AsyncConnection, job_id: str) -> Job:
        """Read a row and lock it until the transaction ends."""
        found = await connection.execute(_LOCKED, {"sought": job_id})
        row = found.one_or_none()
        if row is None:
            raise no_such_job(job_id)
        return job_from_row(row)

    async def _append_history(
        self,
        connection: AsyncConnection,
        jobs: Iterable[tuple[str, State | None, State]],
        detail: str | None,
    ) -> None:
        """Append one line of history for each `(job id, from, to)`."""
        now = datetime.now(UTC)
        lines = [
            {
                "job_id": job_id,
                "at": now,
                "from_state": before,
                "to_state": after,
                "detail": detail,
                "owner": self._owner.id,
            }
            for job_id, before, after in jobs
        ]
        if lines:
            await connection.execute(_NOTE, lines)


def chunks(items: Iterable[_Item]) -> Iterator[Sequence[_Item]]:
    """Split the distinct items into pieces that fit into one query."""
    distinct = list(dict.fromkeys(items))
    return (distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK))


def no_such_job(job_id: str) -> LedgerError:
    """Return the error for an id that is not in the ledger."""
    return LedgerError(f"the ledger has no job {job_id!r}: see `prefect-video jobs` for those it has")
