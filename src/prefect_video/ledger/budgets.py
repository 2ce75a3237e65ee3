"""Limits on what may be committed: how much of each is used, and what still fits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Integer, String, and_, bindparam, case, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video._amounts import usd, usd_sum
from prefect_video._counted import counted
from prefect_video.assets import MANUAL
from prefect_video.ledger.base import LedgerBase, chunks
from prefect_video.ledger.late_reservations import find_abandoned
from prefect_video.ledger.records import Budget, BudgetUsage, JobRequest, Requester, SpendRow, State
from prefect_video.ledger.tables import committed_sums, jobs_table, rounded

_RESERVED: Final = (State.RESERVED, State.SUBMITTING, State.UNKNOWN, State.SUBMITTED)
_SPENT: Final = (
    State.COMPLETED,
    State.STORED,
    State.FAILED,
    State.CANCELLED,
    State.EXPIRED,
    State.LOST,
)
_cost: Final = func.coalesce(jobs_table.c.actual_usd, jobs_table.c.reserved_usd)
ended_free: Final[ColumnElement[bool]] = and_(
    jobs_table.c.state.in_((State.FAILED, State.CANCELLED)),
    func.coalesce(jobs_table.c.actual_usd, Decimal(1)) == Decimal(0),
)
"""Condition of a row that ended without a video, and for which the provider reports no cost."""

spent_usd: Final[ColumnElement[Decimal | None]] = func.sum(case((jobs_table.c.state.in_(_SPENT), _cost), else_=None))
"""Sum of what was paid; the reserved amount stands in where no cost was reported."""

assumed_usd: Final[ColumnElement[Decimal | None]] = func.sum(
    case(
        (and_(jobs_table.c.state.in_(_SPENT), jobs_table.c.actual_usd.is_(None)), jobs_table.c.reserved_usd),
        else_=None,
    )
)
"""The part of it that no provider has reported: what was reserved counts as paid."""

reserved_usd: Final[ColumnElement[Decimal | None]] = func.sum(
    case((jobs_table.c.state.in_(_RESERVED), _cost), else_=None)
)
"""Sum of what is set aside for generations in progress."""

is_counted: Final[ColumnElement[bool]] = and_(
    jobs_table.c.state != State.RELEASED, ~ended_free, jobs_table.c.provider != MANUAL
)
"""Condition of a row whose video was or may be paid for."""

_unpriced: Final = and_(is_counted, _cost.is_(None))
_unpriced_reserved: Final = and_(_unpriced, jobs_table.c.state.in_(_RESERVED))


def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """Count the rows of a group that meet a condition."""
    return func.coalesce(func.sum(case((condition, literal(1, Integer)), else_=literal(0, Integer)), type_=Integer), 0)


_JOB_SUMS: Final = select(
    spent_usd, reserved_usd, count(is_counted), count(_unpriced), count(_unpriced_reserved)
).where(jobs_table.c.state != State.RELEASED)
"""Sums of jobs; the triggers of the schema keep the same of all of them, by month and scope."""

_kept = committed_sums.c
_SUMS: Final = ("spent_usd", "reserved_usd", "videos", "unpriced", "unpriced_reserved")
_KEPT_SUMS: Final = select(*(func.sum(_kept[name]) for name in _SUMS)).where(
    _kept.scope == bindparam("of_scope"), _kept.name == bindparam("named"), _kept.month >= bindparam("since")
)
_SPENT_BY_ACCOUNT: Final = (
    select(_kept.name, func.sum(_kept.spent_usd).label("spent_usd"))
    .where(_kept.scope == "account", _kept.month >= bindparam("since"))
    .group_by(_kept.name)
)
_ADD_UP: Final = text(
    f"WITH parts AS (DELETE FROM committed_sums WHERE part <> 0 RETURNING *)"
    f" INSERT INTO committed_sums (scope, name, month, part, {', '.join(_SUMS)})"
    f" SELECT scope, name, month, 0, {', '.join(f'SUM({name})' for name in _SUMS)} FROM parts"
    f" GROUP BY scope, name, month ON CONFLICT (scope, name, month, part) DO UPDATE"
    f" SET {', '.join(f'{name} = committed_sums.{name} + excluded.{name}' for name in _SUMS)}"
)


def amount_column(value: Any) -> Decimal:
    """Return a sum, which is None over no rows, as an amount."""
    return value if value is not None else Decimal(0)


WARN_FROM: Final = Decimal("0.8")


@dataclass
class Limit:
    """A budget with what is committed under it, including what the present claim has added.

    Attributes:
        usage: As read from the database.
        requested_usd: Added by the present claim.
        requested_videos: Added by the present claim.
    """

    usage: BudgetUsage
    requested_usd: Decimal = Decimal(0)
    requested_videos: int = 0

    def violation(self, job_requests: Sequence[JobRequest]) -> str | None:
        """Explain why these requests do not fit into what is left; None when they do."""
        budget, name = self.usage.budget, self.usage.name
        if budget.limit_videos is not None:
            present = self.usage.videos + self.requested_videos
            if present + len(job_requests) > budget.limit_videos:
                return (
                    f"{name}: the limit is {counted(budget.limit_videos, 'video')}; {present} paid or reserved, "
                    f"{len(job_requests)} asked"
                )
        if budget.limit_usd is None:
            return None
        for job_request in job_requests:
            if job_request.estimate_usd is None:
                return (
                    f"{name}: the limit is {usd(budget.limit_usd)} and the price of shot {job_request.shot.id!r} "
                    f"({job_request.shot.model} at {job_request.provider}) is not known"
                )
        requested = requested_usd(job_requests)
        if self.usage.committed_usd + self.requested_usd + requested > budget.limit_usd:
            return (
                f"{name}: the limit is {usd(budget.limit_usd)}; {self.usage.describe_spent()} spent, "
                f"{self.usage.describe_reserved(self.requested_usd)} reserved, {usd(requested)} asked"
            )
        return None

    def add(self, job_request: JobRequest) -> None:
        """Count a request that is being reserved."""
        self.requested_usd += requested_usd([job_request])
        self.requested_videos += 1

    def usage_after(self) -> BudgetUsage:
        """Return the usage with what the present claim has added."""
        return self.usage.model_copy(
            update={
                "reserved_usd": self.usage.reserved_usd + self.requested_usd,
                "videos": self.usage.videos + self.requested_videos,
            }
        )

    def warning(self) -> str | None:
        """Return a sentence when this claim takes the limit to four fifths or more; otherwise None."""
        return describe_nearly_used(self.usage_after()) if self.requested_videos else None


def describe_nearly_used(usage: BudgetUsage) -> str | None:
    """Return a sentence when four fifths or more of a limit are committed; otherwise None."""
    budget = usage.budget
    if budget.limit_usd is not None and usage.committed_usd >= budget.limit_usd * WARN_FROM:
        committed = usd_sum(usage.committed_usd, usage.unpriced)
        return f"{usage.name}: {committed} of {usd(budget.limit_usd)} are spent or reserved"
    if budget.limit_videos is not None and usage.videos >= budget.limit_videos * WARN_FROM:
        return f"{usage.name}: {usage.videos} of {counted(budget.limit_videos, 'video')} are paid or reserved"
    return None


class Limits:
    """All limits that apply to the job requests of one claim."""

    def __init__(self, limits: dict[tuple[int, str], Limit], budgets: Sequence[Budget]) -> None:
        self._limits = limits
        self._budgets = budgets

    @classmethod
    async def read(
        cls, connection: AsyncConnection, budgets: Sequence[Budget], job_requests: Iterable[JobRequest], now: datetime
    ) -> Limits:
        """Read what is committed under every budget, for every project and account of the requests."""
        limits: dict[tuple[int, str], Limit] = {}
        wanted = list(job_requests)
        budgets = (*budgets, *requester_budgets(job_request.requester for job_request in wanted))
        for number, budget in enumerate(budgets):
            for key in dict.fromkeys(_key(budget, wish) for wish in wanted if _applies(budget, wish)):
                limits[number, key] = Limit(await read_usage(connection, budget, key, now))
        return cls(limits, budgets)

    def check_together(self, job_requests: Sequence[JobRequest]) -> str | None:
        """Explain why these requests cannot all be reserved; None when they can."""
        groups: dict[tuple[int, str], list[JobRequest]] = {}
        for job_request in job_requests:
            for place in self._places(job_request):
                groups.setdefault(place, []).append(job_request)
        refusals = (self._limits[place].violation(group) for place, group in groups.items())
        return next((refusal for refusal in refusals if refusal), None)

    def refuse(self, job_request: JobRequest) -> str | None:
        """Explain why one more request cannot be reserved; None when it can."""
        refusals = (self._limits[place].violation([job_request]) for place in self._places(job_request))
        return next((refusal for refusal in refusals if refusal), None)

    def add(self, job_request: JobRequest) -> None:
        """Count a request that is being reserved."""
        for place in self._places(job_request):
            self._limits[place].add(job_request)

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for every limit that is nearly used up."""
        sentences = (limit.warning() for limit in self._limits.values())
        return tuple(dict.fromkeys(sentence for sentence in sentences if sentence))

    def nearly_used(self) -> tuple[BudgetUsage, ...]:
        """Return the usage of every limit that this claim leaves nearly used up."""
        return tuple(limit.usage_after() for limit in self._limits.values() if limit.warning())

    def _places(self, job_request: JobRequest) -> list[tuple[int, str]]:
        return [
            (number, _key(budget, job_request))
            for number, budget in enumerate(self._budgets)
            if _applies(budget, job_request)
        ]


async def read_usage(
    connection: AsyncConnection, budget: Budget, key: str, now: datetime, *, without: Collection[str] = ()
) -> BudgetUsage:
    """Read how much of one budget is used up for one project or account, or in this month.

    Args:
        connection: Of the transaction.
        budget: The limit.
        key: The project or account, where it is of one.
        now: The time.
        without: Ids of jobs that do not count.
    """
    sought = {
        "of_scope": "account" if budget.scope == "plan" else budget.scope,
        "named": key,
        "since": "" if budget.scope in ("project", "account") else f"{beginning_of_month(now):%Y-%m}",
    }
    sums = _read_sums((await connection.execute(_KEPT_SUMS, sought)).one())
    for chunk in chunks(without):
        left_out = _JOB_SUMS.where(jobs_table.c.id.in_(chunk), _scope(budget, key, now))
        not_counted = _read_sums((await connection.execute(left_out)).one())
        sums = {name: amount - not_counted[name] for name, amount in sums.items()}
    return BudgetUsage(
        budget=budget,
        name=_name(budget, key, now),
        spent_usd=sums["spent_usd"],
        reserved_usd=sums["reserved_usd"],
        videos=int(sums["videos"]),
        unpriced=int(sums["unpriced"]),
        unpriced_reserved=int(sums["unpriced_reserved"]),
    )


async def read_spent_by_account(connection: AsyncConnection, now: datetime) -> dict[str, Decimal]:
    """Read what each account has spent of its jobs of this month; accounts without any are absent."""
    found = await connection.execute(_SPENT_BY_ACCOUNT, {"since": f"{beginning_of_month(now):%Y-%m}"})
    return {row.name: amount_column(row.spent_usd) for row in found}


def _read_sums(row: Iterable[Any]) -> dict[str, Decimal]:
    return {name: Decimal(value or 0) for name, value in zip(_SUMS, row, strict=True)}


async def add_up_sums(connection: AsyncConnection) -> None:
    """Add up the parts that changes on PostgreSQL have added to the kept sums; in the turn of a claim."""
    await connection.execute(_ADD_UP)


def requester_budgets(requesters: Iterable[Requester | None]) -> tuple[Budget, ...]:
    """Return the monthly limits of the clients of the service that requests come from."""
    limits = dict.fromkeys(requester.monthly_usd for requester in requesters if requester is not None)
    return tuple(Budget(scope="requester", limit_usd=limit) for limit in limits if limit is not None)


def requested_usd(job_requests: Iterable[JobRequest]) -> Decimal:
    """Add up what the requests would reserve."""
    return sum(
        (rounded(job_request.estimate_usd) for job_request in job_requests if job_request.estimate_usd), Decimal(0)
    )


def beginning_of_month(now: datetime) -> datetime:
    """Return the first moment (UTC) of the current month."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _scope(budget: Budget, key: str, now: datetime) -> ColumnElement[bool]:
    if budget.scope == "project":
        return jobs_table.c.project == key
    if budget.scope == "account":
        return jobs_table.c.account == key
    this_month = jobs_table.c.created_at >= beginning_of_month(now)
    if budget.scope == "requester":
        return and_(jobs_table.c.requester == key, this_month)
    if budget.scope == "environment":
        return and_(jobs_table.c.environment == key, this_month)
    return and_(jobs_table.c.account == key, this_month) if budget.scope == "plan" else this_month


def _name(budget: Budget, key: str, now: datetime) -> str:
    if budget.scope == "month":
        return f"month {now:%Y-%m}"
    if budget.scope == "requester":
        return f"token {key} in {now:%Y-%m}"
    if budget.scope == "environment":
        return f"environment {key} in {now:%Y-%m}"
    return f"plan of account {key} in {now:%Y-%m}" if budget.scope == "plan" else f"{budget.scope} {key}"


def _applies(budget: Budget, job_request: JobRequest) -> bool:
    """Tell whether a limit is one for this request; a requester's own is for its requests only."""
    if budget.scope != "requester":
        return True
    return job_request.requester is not None and job_request.requester.monthly_usd == budget.limit_usd


def _key(budget: Budget, job_request: JobRequest) -> str:
    if budget.scope == "project":
        return job_request.project
    if budget.scope == "requester":
        return job_request.requester.name if job_request.requester else ""
    if budget.scope == "environment":
        return job_request.environment
    return "" if budget.scope == "month" else job_request.account


Grouping = Literal["month", "project", "account", "key", "environment", "model", "day"]

_PERIODS: Final = {"month": ("YYYY-MM", 7), "day": ("YYYY-MM-DD", 10)}


class SpendReports(LedgerBase):
    """Sums over the ledger."""

    async def report(
        self, *, by: Grouping, project: str | None = None, since: datetime | None = None
    ) -> list[SpendRow]:
        """Sum what was spent and is reserved, by the value of a grouping, in order of that value.

        Months and days are those (UTC) in which the generation was reserved, as budgets count them.
        """
        key = self._key(by)
        conditions: list[ColumnElement[bool]] = [jobs_table.c.state != State.RELEASED]
        if project is not None:
            conditions.append(jobs_table.c.project == project)
        if since is not None:
            conditions.append(jobs_table.c.created_at >= since)
        query = (
            select(
                key.label("key"),
                count(is_counted).label("videos"),
                count(jobs_table.c.state == State.STORED).label("stored"),
                spent_usd.label("spent_usd"),
                assumed_usd.label("assumed_usd"),
                reserved_usd.label("reserved_usd"),
                count(_unpriced).label("unpriced"),
                count(_unpriced_reserved).label("unpriced_reserved"),
            )
            .where(*conditions)
            .group_by("key")
            .order_by("key")
        )
        async with self._database.reading() as connection:
            return [
                SpendRow(
                    key=row.key,
                    videos=row.videos,
                    stored=row.stored,
                    spent_usd=amount_column(row.spent_usd),
                    assumed_usd=amount_column(row.assumed_usd),
                    reserved_usd=amount_column(row.reserved_usd),
                    unpriced=row.unpriced,
                    unpriced_reserved=row.unpriced_reserved,
                )
                for row in await connection.execute(query)
            ]

    async def budget_usage(
        self,
        budgets: Sequence[Budget],
        *,
        project: str,
        account: str,
        environment: str = "production",
        requester: Requester | None = None,
    ) -> list[BudgetUsage]:
        """Read how much of each budget is used up: for a project, an account, an environment, a client."""
        now = datetime.now(UTC)
        budgets = (*budgets, *requester_budgets([requester]))
        name = requester.name if requester else ""
        keys = {"project": project, "account": account, "plan": account, "month": "", "requester": name}
        keys["environment"] = environment
        async with self._database.reading() as connection:
            # A claim would free them.
            dead = await find_abandoned(connection, self._owner) if budgets else []
            return [await read_usage(connection, budget, keys[budget.scope], now, without=dead) for budget in budgets]

    def _key(self, by: Grouping) -> ColumnElement[Any]:
        if by == "key":
            # By its fingerprint; what was not sent yet has none.
            return func.coalesce(jobs_table.c.key_fingerprint, "-")
        if by not in _PERIODS:
            return jobs_table.c[by]
        pattern, length = _PERIODS[by]
        if self._database.is_sqlite:
            return func.substr(jobs_table.c.created_at, 1, length, type_=String)
        return func.to_char(func.timezone("UTC", jobs_table.c.created_at), pattern, type_=String)
