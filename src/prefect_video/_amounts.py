"""Amounts of money as text and as JSON: a price that is not known is never shown as 0."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

PRICE_UNKNOWN: Final = "price unknown"


def usd(amount: Decimal) -> str:
    """Format an amount with two decimals, more only where needed, such as `$2.40` or `$0.0125`."""
    digits = f"{amount:.6f}".rstrip("0")
    whole, _, cents = digits.partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"


def usd_sum(known: Decimal, unpriced: int, *, format_amount: Callable[[Decimal], str] = usd) -> str:
    """Format a sum: `$2.40`, `at least $2.40` where it leaves something out, `price unknown` where nothing is known.

    Args:
        known: The sum of the prices that are known.
        unpriced: How many prices are not.
        format_amount: The form of the amount.
    """
    if not unpriced:
        return format_amount(known)
    return f"at least {format_amount(known)}" if known else PRICE_UNKNOWN


def as_number(amount: Decimal | None) -> float | int | None:
    """Convert an amount into a JSON number."""
    if amount is None:
        return None
    return int(amount) if amount == amount.to_integral_value() else float(amount)
