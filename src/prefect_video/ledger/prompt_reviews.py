"""Prompts that were refused, kept for a human to look at, and those that a human allowed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import bindparam, delete, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.errors import ContentPolicyError, GenerationBlocked, PromptBlocked, VideoError
from prefect_video.ledger.base import BY_ID, LedgerBase, chunks, no_such_job
from prefect_video.ledger.claims import row_from_request
from prefect_video.ledger.log_lines import log_state
from prefect_video.ledger.records import Job, JobRequest, State
from prefect_video.ledger.row_records import readable_rows
from prefect_video.ledger.tables import (
    JOBS,
    allowed_prompts,
    job_from_row,
    job_from_values,
    jobs_table,
)

logger = logging.getLogger(__name__)

REFUSALS: Final = (ContentPolicyError.__name__, PromptBlocked.__name__, GenerationBlocked.__name__)
OF_BLOCKED: Final = text(f"error_type IN ('{ContentPolicyError.__name__}', '{GenerationBlocked.__name__}')")
"""Condition of the rows that a content policy stopped, in the words of their index: SQLite uses it for those only."""
_BLOCKED: Final = JOBS.where(
    jobs_table.c.state.in_([State.RELEASED, State.FAILED]),
    OF_BLOCKED,
    jobs_table.c.provider == bindparam("provider"),
    jobs_table.c.id != bindparam("sought"),
    or_(jobs_table.c.account == bindparam("account"), jobs_table.c.fingerprint == bindparam("fingerprint")),
).order_by(jobs_table.c.updated_at.desc())
"""The rows that a content policy stopped, for the same account or fingerprint; built once, as each submit reads it."""


class PromptReviews(LedgerBase):
    """Refused and allowed prompts."""

    async def refused(self) -> list[Job]:
        """Read the rows that the provider's policy or the local screen refused, newest first."""
        query = JOBS.where(
            jobs_table.c.state.in_([State.RELEASED, State.FAILED]), jobs_table.c.error_type.in_(REFUSALS)
        ).order_by(jobs_table.c.created_at.desc(), jobs_table.c.id.desc())
        async with self._database.reading() as connection:
            return list(readable_rows(await connection.execute(query), job_from_row))

    async def record_screened(self, job_request: JobRequest, error: VideoError | str) -> Job:
        """Keep a prompt that the local screen refused; nothing is reserved for it."""
        row = row_from_request(job_request, State.RELEASED, 1, None, datetime.now(UTC)) | {
            "reserved_usd": None,
            "error_type": PromptBlocked.__name__,
            "error_message": str(error),
        }
        async with self._database.writing() as connection:
            await connection.execute(insert(jobs_table), [row])
            await self._append_history(connection, [(row["id"], None, State.RELEASED)], str(error))
        job = job_from_values(row)
        log_state(job, f"refused by the local screen: {error}")
        return job

    async def get_with_block(self, job_id: str) -> tuple[Job, Job | None]:
        """Read a row, and the newest row with its prompt that a provider's content policy stopped; one read of both.

        Raises:
            LedgerError: There is no such row.
        """

        async def read(connection: AsyncConnection) -> tuple[Job, Job | None]:
            row = (await connection.execute(BY_ID, {"sought": job_id})).one_or_none()
            if row is None:
                raise no_such_job(job_id)
            job = job_from_row(row)
            return job, await self._find_block(connection, job)

        return await self._database.read(read)

    async def _find_block(self, connection: AsyncConnection, job: Job) -> Job | None:
        """Find the row that stops a job.

        It counts for the same account, and for the same fingerprint at any account of the provider; not once a human
        has allowed the fingerprint of `job` since.
        """
        prompt = _words(job)
        blocked = await connection.execute(
            _BLOCKED,
            {"account": job.account, "fingerprint": job.fingerprint, "provider": job.provider, "sought": job.id},
        )
        rows = readable_rows(blocked, job_from_row)
        found = next((row for row in rows if _words(row) == prompt), None)
        if found is None:
            return None
        allowed = select(allowed_prompts.c.at).where(allowed_prompts.c.fingerprint == job.fingerprint)
        allowed_at = (await connection.execute(allowed)).scalar()
        return None if allowed_at is not None and allowed_at > found.updated_at else found

    async def allow(self, fingerprint: str, note: str) -> None:
        """Allow a prompt by its fingerprint, whatever the local screen says, in place of an earlier note."""
        async with self._database.writing() as connection:
            await connection.execute(delete(allowed_prompts).where(allowed_prompts.c.fingerprint == fingerprint))
            await connection.execute(
                insert(allowed_prompts).values(fingerprint=fingerprint, note=note, at=datetime.now(UTC))
            )
        logger.info("prompt %s allowed: %s", fingerprint, note)

    async def allowed(self, fingerprints: Iterable[str]) -> set[str]:
        """Return the fingerprints that were allowed."""
        found: set[str] = set()
        async with self._database.reading() as connection:
            for chunk in chunks(fingerprints):
                rows = await connection.execute(
                    select(allowed_prompts.c.fingerprint).where(allowed_prompts.c.fingerprint.in_(chunk))
                )
                found.update(rows.scalars())
        return found


def _words(job: Job) -> str:
    """Normalize a prompt: differences in case and spaces do not matter to a content policy."""
    return " ".join(job.shot.prompt.split()).casefold()
