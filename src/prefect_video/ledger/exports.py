"""Exports: every job with its history, read in pages, so that a ledger of any size fits into little memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy import and_, or_, select

from prefect_video.ledger.base import CHUNK, LedgerBase
from prefect_video.ledger.records import HistoryEntry, Job
from prefect_video.ledger.row_records import readable_rows
from prefect_video.ledger.tables import JOBS, history, job_from_row, jobs_table

_STEPS: Final = select(*(history.c[name] for name in HistoryEntry.model_fields))


class Exports(LedgerBase):
    """Reads of the whole ledger."""

    async def stream(self) -> AsyncIterator[tuple[Job, Sequence[HistoryEntry]]]:
        """Yield every job with its history, oldest first, without holding a transaction between the pages.

        A job that changes meanwhile is yielded once, as it is when its page is read.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        columns = jobs_table.c
        query = JOBS.order_by(columns.created_at, columns.id).limit(CHUNK)
        page = query
        while True:
            async with self._database.reading() as connection:
                rows = list(await connection.execute(page))
                jobs = list(readable_rows(rows, job_from_row, what="not exported"))
                wanted = _STEPS.where(history.c.job_id.in_([job.id for job in jobs])).order_by(history.c.id)
                steps: dict[str, list[HistoryEntry]] = defaultdict(list)
                for row in await connection.execute(wanted):
                    steps[row.job_id].append(HistoryEntry.model_validate(row._asdict()))
            for job in jobs:
                yield job, steps[job.id]
            if len(rows) < CHUNK:
                return
            last = rows[-1]
            later = and_(columns.created_at == last.created_at, columns.id > last.id)
            page = query.where(or_(columns.created_at > last.created_at, later))
