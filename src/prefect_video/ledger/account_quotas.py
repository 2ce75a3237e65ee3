"""Quotas of plans and the queue of an account: what is left of a month, and who waits for a slot at which priority."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.budgets import read_usage
from prefect_video.ledger.claims import PRIORITIES
from prefect_video.ledger.records import Budget, Priority, State
from prefect_video.ledger.tables import jobs_table


class AccountQuota(BaseModel):
    """Quota and queue of one account.

    Attributes:
        account: Its id.
        month: The calendar month (UTC), such as `2026-01`.
        videos: Generations paid or reserved in it, as the limit counts them.
        monthly_videos: Generations that its plan allows in a month; None for no limit.
        queued: Number of jobs that wait for a slot, by priority, highest first.
    """

    model_config = ConfigDict(frozen=True)

    account: str
    month: str
    videos: int
    monthly_videos: int | None
    queued: Mapping[Priority, int]

    @property
    def left(self) -> int | None:
        """The generations that are left of this month; None for no limit."""
        return None if self.monthly_videos is None else max(0, self.monthly_videos - self.videos)

    def describe(self) -> str:
        """Describe both in a line, such as `3 of 100 videos of 2026-01; 2 wait for a slot (1 high, 1 low)`."""
        limit = "" if self.monthly_videos is None else f" of {self.monthly_videos:,}"
        text = f"{self.videos:,}{limit} videos of {self.month}"
        if not (waiting := sum(self.queued.values())):
            return f"{text}; none waits for a slot"
        ranks = ", ".join(f"{number:,} {priority}" for priority, number in self.queued.items() if number)
        return f"{text}; {waiting:,} wait for a slot ({ranks})"


class AccountQuotas(LedgerBase):
    """Quotas and queues of accounts, for `doctor` and status pages."""

    async def read(self, account: str, monthly_videos: int | None) -> AccountQuota:
        """Read the quota and the queue of an account.

        Args:
            account: Its id.
            monthly_videos: What its plan allows in a month, of the provider's `capabilities`.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        now, jobs = datetime.now(UTC), jobs_table.c
        waiting = (
            select(jobs.priority, func.count().label("number"))
            .where(jobs.account == account, jobs.state == State.RESERVED, jobs.waiting_since.is_not(None))
            .group_by(jobs.priority)
        )
        async with self._database.reading() as connection:
            usage = await read_usage(connection, Budget(scope="plan", limit_videos=monthly_videos), account, now)
            numbers = {row.priority: row.number for row in await connection.execute(waiting)}
        queued = {priority: numbers.get(rank, 0) for priority, rank in PRIORITIES.items()}
        return AccountQuota(
            account=account,
            month=f"{now:%Y-%m}",
            videos=usage.videos,
            monthly_videos=monthly_videos,
            queued=queued,
        )
