"""Retention: what may be removed from a ledger once it is old, because neither cache nor sums nor a human needs it.

A row whose generation was accepted stays, whatever became of it: it is the evidence by which nothing is paid twice, and
one of the rows by which budgets and monthly sums are right. So does what is held, and what was refused for its prompt,
as it stops the same prompt from being sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, Delete, Table, and_, delete, exists, func, not_, or_, select, tuple_, update

from prefect_video._counted import counted
from prefect_video.errors import InvalidInput
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.budgets import ended_free
from prefect_video.ledger.prompt_reviews import REFUSALS
from prefect_video.ledger.records import UNFINISHED, State
from prefect_video.ledger.tables import copies, history, idempotency_keys, jobs_table, ledger_identity, webhook_events

logger = logging.getLogger(__name__)

SHORTEST_RETENTION: Final = timedelta(days=7)
"""Runs count the attempts, services know the keys and providers repeat the events of the last days."""

_BATCH: Final = 1_000
"""Rows in one transaction, so that live runs never wait long for their turn."""


class Removal(BaseModel):
    """The number of rows that were removed, or would be.

    Attributes:
        history: Lines of history of jobs that have ended.
        idempotency_keys: Keys of requests whose jobs have ended.
        jobs: Released reservations, and jobs that ended free without a generation.
        webhook_events: Events that were handled.
    """

    model_config = ConfigDict(frozen=True)

    history: int = 0
    idempotency_keys: int = 0
    jobs: int = 0
    webhook_events: int = 0


class Retention(LedgerBase):
    """Removal of old rows that nothing needs any more."""

    async def prune(self, older_than: timedelta, *, dry_run: bool = False) -> Removal:
        """Remove what is older than an age, in short transactions beside live runs; it can be repeated at any time.

        Args:
            older_than: The age.
            dry_run: Count, and remove nothing.

        Raises:
            InvalidInput: The age is below a week.
            LedgerError: The ledger cannot be written; what was removed by then stays removed.
        """
        if older_than < SHORTEST_RETENTION:
            raise InvalidInput(
                f"ledger prune: --older-than is {older_than.days} days and must be {SHORTEST_RETENTION.days} or more"
            )
        before = datetime.now(UTC) - older_than
        conditions = _removable(before)
        if not dry_run:
            await self._allow_removal(before)
        counts = {
            table.name: await (self._count(table, condition) if dry_run else self._remove(table, condition))
            for table, condition in conditions.items()
        }
        return Removal(**counts)

    async def _allow_removal(self, before: datetime) -> None:
        """Move the mark below which the database lets lines of the append-only history go."""
        mark = ledger_identity.c.pruned_before
        async with self._database.writing() as connection:
            await connection.execute(
                update(ledger_identity).where(or_(mark.is_(None), mark < before)).values(pruned_before=before)
            )

    async def _count(self, table: Table, condition: ColumnElement[bool]) -> int:
        async with self._database.reading() as connection:
            return (await connection.execute(select(func.count()).select_from(table).where(condition))).scalar_one()

    async def _remove(self, table: Table, condition: ColumnElement[bool]) -> int:
        statement, removed = _delete_batch(table, condition), 0
        while True:
            async with self._database.writing() as connection:
                in_batch = (await connection.execute(statement)).rowcount
            removed += in_batch
            if in_batch < _BATCH:
                logger.info("%s removed from %s", counted(removed, "row"), table.name)
                return removed


def _removable(before: datetime) -> Mapping[Table, ColumnElement[bool]]:
    """Return the condition of the rows of each table that may go, in the order in which they may."""
    job, line, key, event = jobs_table.c, history.c, idempotency_keys.c, webhook_events.c
    over = and_(job.state.not_in(UNFINISHED), job.hold_reason.is_(None))
    costs_nothing = or_(job.state == State.RELEASED, ended_free)
    unneeded = and_(
        over,
        costs_nothing,
        job.updated_at < before,
        job.generation_id.is_(None),
        job.asset.is_(None),
        job.disputed_usd.is_(None),
        func.coalesce(job.error_type, "").not_in(REFUSALS),
        not_(exists().where(line.job_id == job.id, line.at >= before)),
        not_(exists().where(key.job_id == job.id, key.created_at >= before)),
        not_(exists().where(copies.c.job_id == job.id)),
    )
    return MappingProxyType(
        {
            history: and_(line.at < before, exists().where(job.id == line.job_id, over)),
            # One that was never answered is kept: a job of it may have been sent.
            idempotency_keys: and_(key.created_at < before, exists().where(job.id == key.job_id, over)),
            jobs_table: unneeded,
            webhook_events: and_(event.received_at < before, event.handled_at.is_not(None)),
        }
    )


def _delete_batch(table: Table, condition: ColumnElement[bool]) -> Delete:
    identity: Any = tuple(table.primary_key.columns)
    batch = select(*identity).where(condition).order_by(*identity).limit(_BATCH)
    return delete(table).where(tuple_(*identity).in_(batch) if len(identity) > 1 else identity[0].in_(batch))
