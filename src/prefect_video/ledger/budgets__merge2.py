"""What counts as spent, as reserved and as a video: the same for budgets and for the books."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, and_, case, func, literal

from prefect_video.ledger.records import State
from prefect_video.ledger.tables import generations

_RESERVED: Final = (State.RESERVED, State.SUBMITTING, State.UNKNOWN, State.SUBMITTED)
_SPENT: Final = (
    State.COMPLETED,
    State.STORED,
    State.FAILED,
    State.CANCELLED,
    State.EXPIRED,
    State.LOST,
)
_cost: Final = func.coalesce(generations.c.actual_usd, generations.c.reserved_usd)
_ended_free: Final = and_(
    generations.c.state.in_((State.FAILED, State.CANCELLED)),
    func.coalesce(generations.c.actual_usd, Decimal(1)) == Decimal(0),
)

spent_usd: Final[ColumnElement[Decimal | None]] = func.sum(case((generations.c.state.in_(_SPENT), _cost), else_=None))
"""Sum of what was paid; the reserved amount stands in where no cost was told."""

assumed_usd: Final[ColumnElement[Decimal | None]] = func.sum(
    case(
        (and_(generations.c.state.in_(_SPENT), generations.c.actual_usd.is_(None)), generations.c.reserved_usd),
        else_=None,
    )
)
"""The part of it that no provider has told: what was reserved counts as paid."""

reserved_usd: Final[ColumnElement[Decimal | None]] = func.sum(
    case((generations.c.state.in_(_RESERVED), _cost), else_=None)
)
"""Sum of what is set aside for generations under way."""

counted: Final[ColumnElement[bool]] = and_(generations.c.state != State.RELEASED, ~_ended_free)
"""Whether a row is a video that was or may be paid for."""


def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows of a group meet a condition."""
    return func.coalesce(func.sum(case((condition, literal(1, Integer)), else_=literal(0, Integer)), type_=Integer), 0)


def usd(amount: Decimal) -> str:
    """An amount for people: two decimals, more only where needed, such as `$2.40` or `$0.0125`."""
    digits = f"{amount:.6f}".rstrip("0")
    whole, _, cents = digits.partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"


def amount_of(value: Any) -> Decimal:
    """A sum that may be over no rows at all."""
    return value if value is not None else Decimal(0)
