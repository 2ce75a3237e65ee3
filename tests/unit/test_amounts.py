"""Amounts of money as people and programs read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from prefect_video._amounts import as_number, usd, usd_sum


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.3", "$0.30"),
        ("3.9", "$3.90"),
        ("2.40", "$2.40"),
        ("10", "$10.00"),
        ("0.0125", "$0.0125"),
        ("1234.5", "$1234.50"),
        ("1E+2", "$100.00"),
    ],
)
def test_an_amount_has_two_decimals_and_more_only_where_they_say_something(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("known", "unpriced", "text"),
    [("2.4", 0, "$2.40"), ("0", 0, "$0.00"), ("2.4", 1, "at least $2.40"), ("0", 1, "price unknown")],
)
def test_a_sum_says_what_it_leaves_out(known: str, unpriced: int, text: str) -> None:
    assert usd_sum(Decimal(known), unpriced) == text


def test_a_whole_amount_is_a_whole_number_in_json() -> None:
    found = [as_number(amount) for amount in (None, Decimal("2.00"), Decimal("2.40"))]
    assert [(type(number), number) for number in found] == [(type(None), None), (int, 2), (float, 2.4)]
