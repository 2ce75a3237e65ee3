"""Late reservations: the cost of shots that are claimed later, counted against every limit from the start of the run.

The fingerprint of a shot that continues another is not known before that one is stored. Until then a row of its own
holds its place: reserved, never sent, with a fingerprint that no video has. The claim that follows turns this row into
that of the shot, or frees it, in one transaction. What a dead run has left is free for others at once: no money was
sent for it, and none will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.existing_jobs import Key, read_unfinished
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import Job, JobRequest, State
from prefect_video.ledger.tables import jobs_table

LATE_PREFIX: Final = "late:"
"""Beginning of the fingerprints of late reservations; those of videos begin with the version of their encoding."""

OF_LATE: Final = text(f"substr(fingerprint, 1, {len(LATE_PREFIX)}) = '{LATE_PREFIX}'")
"""Condition of late reservations, in the words of their index: SQLite uses it for exactly those only."""

_RESERVED: Final = (jobs_table.c.state == State.RESERVED, OF_LATE)
_ALL_RESERVED: Final = select(jobs_table.c.id, jobs_table.c.owner).where(*_RESERVED)


def is_late(fingerprint: str) -> bool:
    """Tell whether a fingerprint is that of a late reservation, which nothing is sent for."""
    return fingerprint.startswith(LATE_PREFIX)


async def find_abandoned(connection: AsyncConnection, owner: Lease) -> list[str]:
    """Return the ids of late reservations whose runs are dead."""
    rows = (await connection.execute(_ALL_RESERVED)).all()
    owners = {row.owner for row in rows if row.owner}
    alive = await owner.alive(connection, owners) | {owner.id} if owners else set()
    return [row.id for row in rows if row.owner not in alive]


async def suspend_reservations(
    connection: AsyncConnection, job_requests: Iterable[JobRequest], now: datetime
) -> Mapping[Key, Job]:
    """Free the late reservations that requests use up, so that the limits count what is asked only once."""
    keys = {(request.environment, request.reservation) for request in job_requests if request.reservation is not None}
    if not keys:
        return {}
    found = await read_unfinished(connection, keys)
    await free_reservations(connection, (job.id for job in found.values()), now)
    return found


async def free_reservations(connection: AsyncConnection, job_ids: Iterable[str], now: datetime) -> None:
    """Release late reservations, of this or another process."""
    for chunk in chunks(job_ids):
        await connection.execute(
            update(jobs_table)
            .where(jobs_table.c.id.in_(chunk), *_RESERVED)
            .values(state=State.RELEASED, owner=None, updated_at=now)
        )


class LateReservations(LedgerBase):
    """Late reservations of runs that give them up."""

    async def release(self, job: Job, reason: str) -> None:
        """Release a late reservation, unless it was used up or freed, or is another process's by now."""
        async with self._database.writing() as connection:
            released = await connection.execute(
                update(jobs_table)
                .where(jobs_table.c.id == job.id, jobs_table.c.owner == job.owner, *_RESERVED)
                .values(state=State.RELEASED, owner=None, updated_at=datetime.now(UTC))
            )
            if released.rowcount:
                await self._append_history(connection, [(job.id, State.RESERVED, State.RELEASED)], reason)
