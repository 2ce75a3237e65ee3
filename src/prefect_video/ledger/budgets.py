"""Limits on what may be committed: how much of each is used, and what still fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from prefect_video.ledger.amounts import amount_of, count, counted, reserved_usd, spent_usd, usd
from prefect_video.ledger.records import Budget, BudgetStanding, Intent, State
from prefect_video.ledger.tables import generations, rounded

WARN_FROM: Final = Decimal("0.8")


@dataclass
class Limit:
    """A budget with what is committed under it, including what the present claim has added.

    Attributes:
        standing: As the database told it.
        asked_usd: Added by the present claim.
        asked_videos: Added by the present claim.
    """

    standing: BudgetStanding
    asked_usd: Decimal = Decimal(0)
    asked_videos: int = 0

    def refusal(self, intents: Sequence[Intent]) -> str | None:
        """Why these intents do not fit together into what is left; None when they do."""
        budget, name = self.standing.budget, self.standing.name
        if budget.limit_videos is not None:
            present = self.standing.videos + self.asked_videos
            if present + len(intents) > budget.limit_videos:
                return (
                    f"{name}: the limit is {_videos(budget.limit_videos)}; {present} paid or reserved, "
                    f"{len(intents)} asked"
                )
        if budget.limit_usd is None:
            return None
        for intent in intents:
            if intent.estimate_usd is None:
                return (
                    f"{name}: the limit is {usd(budget.limit_usd)} and the price of shot {intent.shot.id!r} "
                    f"({intent.shot.model} at {intent.provider}) is not known"
                )
        asked = asked_usd(intents)
        if self.standing.committed_usd + self.asked_usd + asked > budget.limit_usd:
            return (
                f"{name}: the limit is {usd(budget.limit_usd)}; {usd(self.standing.spent_usd)} spent, "
                f"{usd(self.standing.reserved_usd + self.asked_usd)} reserved, {usd(asked)} asked"
            )
        return None

    def add(self, intent: Intent) -> None:
        """Counts an intent that is being reserved."""
        self.asked_usd += asked_usd([intent])
        self.asked_videos += 1

    def warning(self) -> str | None:
        """A sentence when four fifths of the limit or more are committed and this claim added to it."""
        if not self.asked_videos:
            return None
        budget, name = self.standing.budget, self.standing.name
        committed = self.standing.committed_usd + self.asked_usd
        if budget.limit_usd is not None and committed >= budget.limit_usd * WARN_FROM:
            return f"{name}: {usd(committed)} of {usd(budget.limit_usd)} are spent or reserved"
        videos = self.standing.videos + self.asked_videos
        if budget.limit_videos is not None and videos >= budget.limit_videos * WARN_FROM:
            return f"{name}: {videos} of {_videos(budget.limit_videos)} are paid or reserved"
        return None


class Limits:
    """All limits that apply to the intents of one claim."""

    def __init__(self, limits: dict[tuple[int, str], Limit], budgets: Sequence[Budget]) -> None:
        self._limits = limits
        self._budgets = budgets

    @classmethod
    async def read(
        cls, connection: AsyncConnection, budgets: Sequence[Budget], intents: Iterable[Intent], now: datetime
    ) -> Limits:
        """Reads what is committed under every budget, for every project and account that is asked for."""
        limits: dict[tuple[int, str], Limit] = {}
        wanted = list(intents) if budgets else []
        for number, budget in enumerate(budgets):
            for key in dict.fromkeys(_key(budget, intent) for intent in wanted):
                limits[number, key] = Limit(await read_standing(connection, budget, key, now))
        return cls(limits, budgets)

    def refuse_together(self, intents: Sequence[Intent]) -> str | None:
        """Why these intents cannot all be reserved; None when they can."""
        groups: dict[tuple[int, str], list[Intent]] = {}
        for intent in intents:
            for place in self._places(intent):
                groups.setdefault(place, []).append(intent)
        refusals = (self._limits[place].refusal(group) for place, group in groups.items())
        return next((refusal for refusal in refusals if refusal), None)

    def refuse(self, intent: Intent) -> str | None:
        """Why one more intent cannot be reserved; None when it can."""
        refusals = (self._limits[place].refusal([intent]) for place in self._places(intent))
        return next((refusal for refusal in refusals if refusal), None)

    def add(self, intent: Intent) -> None:
        """Counts an intent that is being reserved."""
        for place in self._places(intent):
            self._limits[place].add(intent)

    def warnings(self) -> tuple[str, ...]:
        """A sentence for every limit that is nearly used up."""
        sentences = (limit.warning() for limit in self._limits.values())
        return tuple(dict.fromkeys(sentence for sentence in sentences if sentence))

    def _places(self, intent: Intent) -> list[tuple[int, str]]:
        return [(number, _key(budget, intent)) for number, budget in enumerate(self._budgets)]


async def read_standing(connection: AsyncConnection, budget: Budget, key: str, now: datetime) -> BudgetStanding:
    """How much of one budget is used up for one project or account (or in this month)."""
    found = await connection.execute(
        select(spent_usd, reserved_usd, count(counted)).where(
            generations.c.state != State.RELEASED, _scope(budget, key, now)
        )
    )
    spent, reserved, videos = found.one()
    return BudgetStanding(
        budget=budget,
        name=_name(budget, key, now),
        spent_usd=amount_of(spent),
        reserved_usd=amount_of(reserved),
        videos=int(videos),
    )


def asked_usd(intents: Iterable[Intent]) -> Decimal:
    """What intents would reserve together."""
    return sum((rounded(intent.estimate_usd) for intent in intents if intent.estimate_usd), Decimal(0))


def beginning_of_month(now: datetime) -> datetime:
    """The first moment (UTC) of the month that is under way."""
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _scope(budget: Budget, key: str, now: datetime) -> ColumnElement[bool]:
    if budget.scope == "project":
        return generations.c.project == key
    if budget.scope == "account":
        return generations.c.account == key
    this_month = generations.c.created_at >= beginning_of_month(now)
    return and_(generations.c.account == key, this_month) if budget.scope == "plan" else this_month


def _name(budget: Budget, key: str, now: datetime) -> str:
    if budget.scope == "month":
        return f"month {now:%Y-%m}"
    return f"plan of account {key} in {now:%Y-%m}" if budget.scope == "plan" else f"{budget.scope} {key}"


def _key(budget: Budget, intent: Intent) -> str:
    if budget.scope == "project":
        return intent.project
    return "" if budget.scope == "month" else intent.account


def _videos(number: int) -> str:
    return "1 video" if number == 1 else f"{number} videos"
