"""The guide's duration advice."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video import InvalidInput
from prefect_video.providers.duration_advice import optimize_duration
from prefect_video.providers.pricing import SORA_USD_PER_SECOND, usd_for


@pytest.mark.parametrize(
    ("content_type", "seconds", "usd"),
    [
        ("product", 10, "2.50"),
        ("broll", 8, "2.40"),
        ("establishing", 12, "3.00"),
        ("abstract", 15, "3.30"),
        ("x", 10, "2.50"),
    ],
)
def test_the_guides_lengths(content_type: str, seconds: int, usd: str) -> None:
    advice = optimize_duration(content_type, usd_per_second=SORA_USD_PER_SECOND)
    assert (advice.seconds, advice.usd) == (seconds, Decimal(usd))


def test_never_shorter_than_acceptable_or_longer_than_offered() -> None:
    assert optimize_duration("broll", minimum_seconds=12, usd_per_second=SORA_USD_PER_SECOND).seconds == 12
    assert optimize_duration("abstract", longest_seconds=10, usd_per_second=SORA_USD_PER_SECOND).seconds == 10
    with pytest.raises(InvalidInput):
        optimize_duration(minimum_seconds=30, usd_per_second=SORA_USD_PER_SECOND)


def test_a_longer_video_that_costs_no_more_is_named() -> None:
    # Nine seconds at 0.30 cost more than ten at 0.25.
    advice = optimize_duration("broll", minimum_seconds=9, usd_per_second=SORA_USD_PER_SECOND)
    assert (advice.seconds, advice.cheaper_seconds) == (9, 10)


@given(st.integers(1, 20))
def test_the_named_length_is_longer_and_not_dearer(minimum: int) -> None:
    advice = optimize_duration("x", minimum_seconds=minimum, usd_per_second=SORA_USD_PER_SECOND)
    if advice.cheaper_seconds is not None:
        price = usd_for(advice.cheaper_seconds, SORA_USD_PER_SECOND)
        assert price is not None
        assert advice.usd is not None
        assert price <= advice.usd
        assert advice.cheaper_seconds > advice.seconds


def test_an_unknown_price_is_unknown() -> None:
    assert optimize_duration("product", usd_per_second={}).usd is None
