"""Measurements of the ledger: how much money and work it holds at a moment, for monitoring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.budgets import amount_column, read_spent_by_account, reserved_usd
from prefect_video.ledger.hold_reasons import find_reason
from prefect_video.ledger.records import State
from prefect_video.ledger.tables import IS_UNFINISHED, jobs_table, webhook_events

# By its id, or SQLite would read all jobs in the order of an index that has what is summed up.
_IS_IN_PROGRESS: Final = jobs_table.c.id.in_(select(jobs_table.c.id).where(IS_UNFINISHED))

OTHER_REASON: Final = "other"
"""Reason of a job that is held in other words than this version's."""


class AccountMeasurement(BaseModel):
    """Money and work of one account.

    Attributes:
        account: Its id.
        spent_usd: What its generations cost that were reserved in this calendar month (UTC), as budgets count them.
        reserved_usd: What is set aside for its generations in progress, of whichever month.
        unfinished: Number of its jobs in progress, by state.
        queued: Those of them that wait for a slot.
        oldest_unfinished_at: When the oldest of them was reserved; None where there is none.
        oldest_event_at: When the oldest of its webhook events came in that is not handled; None where there is none.
    """

    model_config = ConfigDict(frozen=True)

    account: str
    spent_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    unfinished: Mapping[State, int] = {}
    queued: int = 0
    oldest_unfinished_at: AwareDatetime | None = None
    oldest_event_at: AwareDatetime | None = None


class Measurement(BaseModel):
    """The ledger at a moment.

    Attributes:
        at: The moment.
        accounts: One entry for each account that has jobs of this month, or has anything in progress.
        held: Number of held jobs, by hold reason.
    """

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    accounts: tuple[AccountMeasurement, ...]
    held: Mapping[str, int]


class Measurements(LedgerBase):
    """Measurements for monitoring; they read what is in progress, what is held and this month's sums, not all rows."""

    async def read(self, accounts: Iterable[str] = ()) -> Measurement:
        """Measure the ledger as it is now.

        Args:
            accounts: Ids of accounts that are to have an entry although they have nothing in the ledger.
        """
        now = datetime.now(UTC)
        async with self._database.reading() as connection:
            measured = {**{account: {} for account in accounts}, **await _measure_accounts(connection, now)}
            held = await connection.execute(
                select(jobs_table.c.hold_reason).where(jobs_table.c.hold_reason.is_not(None))
            )
            reasons = Counter(find_reason(text) or OTHER_REASON for text in held.scalars())
        entries = (AccountMeasurement(account=account, **measured[account]) for account in sorted(measured))
        return Measurement(at=now, accounts=tuple(entries), held=reasons)

    async def count_states(self, *, since: datetime) -> dict[str, int]:
        """Count the jobs that were reserved since a time, and all in progress, by state; states without any are absent.

        Args:
            since: The time.
        """
        jobs = jobs_table.c
        number = func.count().label("number")
        # Two searches, each by an index of its own: for one with `OR`, SQLite reads all jobs.
        counts = union_all(
            select(jobs.state, number).where(jobs.created_at >= since).group_by(jobs.state),
            select(jobs.state, number).where(jobs.created_at < since, _IS_IN_PROGRESS).group_by(jobs.state),
        )
        found: Counter[State] = Counter()
        async with self._database.reading() as connection:
            for row in await connection.execute(counts):
                found[row.state] += row.number
        return {state.value: found[state] for state in State if state in found}


async def _measure_accounts(connection: AsyncConnection, now: datetime) -> dict[str, dict[str, Any]]:
    jobs = jobs_table.c
    accounts: dict[str, dict[str, Any]] = {}
    for account, spent_usd in (await read_spent_by_account(connection, now)).items():
        accounts.setdefault(account, {})["spent_usd"] = spent_usd
    in_progress = (
        select(
            jobs.account,
            jobs.state,
            func.count().label("number"),
            func.count(jobs.waiting_since).label("queued"),
            func.min(jobs.created_at).label("oldest"),
            reserved_usd.label("reserved"),
        )
        .where(_IS_IN_PROGRESS)
        .group_by(jobs.account, jobs.state)
    )
    for row in await connection.execute(in_progress):
        _add_state(accounts.setdefault(row.account, {}), row)
    events = (
        select(webhook_events.c.account, func.min(webhook_events.c.received_at).label("oldest"))
        .where(webhook_events.c.handled_at.is_(None))
        .group_by(webhook_events.c.account)
    )
    for row in await connection.execute(events):
        accounts.setdefault(row.account, {})["oldest_event_at"] = row.oldest
    return accounts


def _add_state(account: dict[str, Any], row: Any) -> None:
    """Add the jobs of one state to the values of their account."""
    account.setdefault("unfinished", {})[row.state] = row.number
    account["queued"] = account.get("queued", 0) + row.queued
    account["reserved_usd"] = account.get("reserved_usd", Decimal(0)) + amount_column(row.reserved)
    account["oldest_unfinished_at"] = min(account.get("oldest_unfinished_at", row.oldest), row.oldest)
