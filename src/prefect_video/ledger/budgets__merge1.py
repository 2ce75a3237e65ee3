"""The books: what was spent and is reserved, and how budgets stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, String, and_, func, select

from prefect_video.ledger.amounts import amount_of, assumed_usd, count, counted, reserved_usd, spent_usd
from prefect_video.ledger.budgets import read_standing
from prefect_video.ledger.part import LedgerPart
from prefect_video.ledger.records import Budget, BudgetStanding, Spend, State
from prefect_video.ledger.tables import generations

Grouping = Literal["month", "project", "account", "model", "day"]

_PERIODS: Final = {"month": ("YYYY-MM", 7), "day": ("YYYY-MM-DD", 10)}
_unpriced: Final = and_(counted, generations.c.actual_usd.is_(None), generations.c.reserved_usd.is_(None))


class Book(LedgerPart):
    """Sums over the ledger."""

    async def spend(self, *, by: Grouping, project: str | None = None, since: datetime | None = None) -> list[Spend]:
        """What was spent and is reserved, by the value of a grouping, in order of that value.

        Months and days are those (UTC) in which the generation was reserved, as budgets count them.
        """
        key = self._key(by)
        conditions: list[ColumnElement[bool]] = [generations.c.state != State.RELEASED]
        if project is not None:
            conditions.append(generations.c.project == project)
        if since is not None:
            conditions.append(generations.c.created_at >= since)
        query = (
            select(
                key.label("key"),
                count(counted).label("videos"),
                count(generations.c.state == State.STORED).label("stored"),
                spent_usd.label("spent_usd"),
                assumed_usd.label("assumed_usd"),
                reserved_usd.label("reserved_usd"),
                count(_unpriced).label("unpriced"),
            )
            .where(*conditions)
            .group_by("key")
            .order_by("key")
        )
        async with self._database.reading() as connection:
            return [
                Spend(
                    key=row.key,
                    videos=row.videos,
                    stored=row.stored,
                    spent_usd=amount_of(row.spent_usd),
                    assumed_usd=amount_of(row.assumed_usd),
                    reserved_usd=amount_of(row.reserved_usd),
                    unpriced=row.unpriced,
                )
                for row in await connection.execute(query)
            ]

    async def budget_standing(self, budgets: Sequence[Budget], *, project: str, account: str) -> list[BudgetStanding]:
        """How much of each budget is used up, for a project and an account."""
        now = datetime.now(UTC)
        keys = {"project": project, "account": account, "plan": account, "month": ""}
        async with self._database.reading() as connection:
            return [await read_standing(connection, budget, keys[budget.scope], now) for budget in budgets]

    def _key(self, by: Grouping) -> ColumnElement[Any]:
        if by not in _PERIODS:
            return generations.c[by]
        pattern, length = _PERIODS[by]
        if self._database.is_sqlite:
            return func.substr(generations.c.created_at, 1, length, type_=String)
        return func.to_char(func.timezone("UTC", generations.c.created_at), pattern, type_=String)
