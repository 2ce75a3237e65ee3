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

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.queries import Key, read_unfinished
from prefect_video.ledger.records import Job, JobRequest, State
from prefect_video.ledger.tables import jobs_table

LATE_PREFIX: Final = "late:"
"""Beginning of the fingerprints of late reservations; those of videos begin with the version of their encoding."""

_RESERVED: Final = (jobs_table.c.state == State.RESERVED, jobs_table.c.fingerprint.startswith(LATE_PREFIX))


def is_late(fingerprint: str) -> bool:
    """Tell whether a fingerprint is that of a late reservation, which nothing is sent for."""
    return fingerprint.startswith(LATE_PREFIX)


async def find_abandoned(connection: AsyncConnection, owner: Lease) -> list[str]:
    """Return the ids of late reservations whose runs are dead."""
    rows = (await connection.execute(select(jobs_table.c.id, jobs_table.c.owner).where(*_RESERVED))).all()
    owners = {row.owner for row in rows if row.owner}
    alive = await owner.alive(connection, owners) | {owner.id} if owners else set()
    return [row.id for row in rows if row.owner not in alive]


async def suspend_reservations(
    connection: AsyncConnection, job_requests: Iterable[JobRequest], now: datetime
) -> Mapping[Key, Job]:
    """Free the late reservations that requests use up, so that the limits count what is asked only once."""
    keys = {(asked.environment, asked.reservation) for asked in job_requests if asked.reservation is not None}
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
    """Late reservations of this process."""

    async def release(self, job_ids: Iterable[str], reason: str) -> None:
        """Release late reservations that this process holds; those that were used up or freed stay as they are."""
        wanted = list(job_ids)
        if not wanted:
            return
        async with self._database.writing() as connection:
            own = [jobs_table.c.owner == self._owner.id, *_RESERVED]
            held: list[str] = []
            for chunk in chunks(wanted):
                found = await connection.execute(select(jobs_table.c.id).where(jobs_table.c.id.in_(chunk), *own))
                held += found.scalars()
            await free_reservations(connection, held, datetime.now(UTC))
            await self._append_history(
                connection, ((job_id, State.RESERVED, State.RELEASED) for job_id in held), reason
            )
