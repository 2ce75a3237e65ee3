"""Queue of an account: who waits for a slot by priority, and what its plan leaves of the month."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select

from prefect_video.ledger.account_limits import AccountLimits
from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.budgets import beginning_of_month, read_usage
from prefect_video.ledger.database import Database
from prefect_video.ledger.leases import Lease
from prefect_video.ledger.records import AccountStatus, Budget, Priority, State
from prefect_video.ledger.tables import jobs_table

_NAMES: Final[tuple[Priority, ...]] = ("high", "normal", "low")


class AccountQueue(BaseModel):
    """The plan of an account at work.

    Attributes:
        status: Slots, breaker and quota.
        queued: Number of reserved jobs that are not sent yet, by priority, the highest first.
        used_videos: Generations paid or reserved in this calendar month (UTC).
        monthly_videos: What the plan allows in a month; None for no limit that is known.
        resets_at: When the month ends, and the plan's count begins anew.
    """

    model_config = ConfigDict(frozen=True)

    status: AccountStatus
    queued: Mapping[Priority, int]
    used_videos: int
    monthly_videos: int | None
    resets_at: datetime

    @property
    def left_videos(self) -> int | None:
        """Videos left in the plan's month; None for no limit that is known."""
        return None if self.monthly_videos is None else max(0, self.monthly_videos - self.used_videos)


class AccountQueues(LedgerBase):
    """Queues of accounts, for people who look."""

    def __init__(self, database: Database, owner: Lease, command_option: str | None, *, limits: AccountLimits) -> None:
        super().__init__(database, owner, command_option)
        self._limits = limits

    async def read(self, account: str, *, slots: int | None, monthly_videos: int | None) -> AccountQueue:
        """Read the queue of an account.

        Args:
            account: Its id.
            slots: Generations that its plan allows at once; None for no limit that is known.
            monthly_videos: Generations that its plan allows in a month; None for no limit that is known.
        """
        now = datetime.now(UTC)
        jobs = jobs_table.c
        waiting = (
            select(jobs.priority, func.count())
            .where(jobs.account == account, jobs.state == State.RESERVED)
            .group_by(jobs.priority)
        )
        async with self._database.reading() as connection:
            by_rank = {int(rank): int(number) for rank, number in await connection.execute(waiting)}
            used = await read_usage(connection, Budget(scope="plan"), account, now)
        return AccountQueue(
            status=await self._limits.status(account, slots=slots),
            queued={name: by_rank.get(1 - place, 0) for place, name in enumerate(_NAMES)},
            used_videos=used.videos,
            monthly_videos=monthly_videos,
            resets_at=_next_month(now),
        )


def _next_month(now: datetime) -> datetime:
    first = beginning_of_month(now)
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
