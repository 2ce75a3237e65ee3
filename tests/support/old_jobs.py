"""Jobs of long ago, which pruning may remove."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import text, update

from prefect_video.ledger import Job, Ledger, jobs_table
from prefect_video.ledger.tables import history, idempotency_keys
from tests.support.records import claim_one

OLD = datetime.now(UTC) - timedelta(days=100)


async def age(ledger: Ledger, *jobs: Job) -> None:
    """Make jobs, with all that belongs to them, a hundred days old; the triggers are of the history's own lines."""
    ids = [job.id for job in jobs]
    async with ledger._database.writing() as connection:
        if ledger._database.is_sqlite:
            (trigger,) = (
                await connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'history_no_update'"))
            ).scalars()
            await connection.execute(text("DROP TRIGGER history_no_update"))
        else:
            await connection.execute(text("ALTER TABLE history DISABLE TRIGGER USER"))
        await connection.execute(
            update(jobs_table).where(jobs_table.c.id.in_(ids)).values(created_at=OLD, updated_at=OLD)
        )
        await connection.execute(update(history).where(history.c.job_id.in_(ids)).values(at=OLD))
        await connection.execute(
            update(idempotency_keys).where(idempotency_keys.c.job_id.in_(ids)).values(created_at=OLD)
        )
        if ledger._database.is_sqlite:
            await connection.execute(text(trigger))
        else:
            await connection.execute(text("ALTER TABLE history ENABLE TRIGGER USER"))


async def release(ledger: Ledger, number: int) -> Job:
    """Claim one request and release its reservation."""
    job = await claim_one(ledger, number)
    await ledger.jobs.release_reservation(job.id, "not needed")
    return await ledger.jobs.get(job.id)
