"""Advice on durations: the guide's lengths by kind of content, weighed against a provider's price table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from prefect_video._amounts import usd
from prefect_video.errors import InvalidInput
from prefect_video.providers.pricing import usd_for
from prefect_video.shots import Shot

ADVISED_SECONDS: Final[Mapping[str, int]] = {"product": 10, "broll": 8, "establishing": 12, "abstract": 15}
"""Good lengths by kind of content: a product shot balances quality and cost, b-roll may be short, and so on."""

DEFAULT_SECONDS: Final = 10


@dataclass(frozen=True)
class DurationAdvice:
    """Advice on the length of a video.

    Attributes:
        seconds: The advised length.
        usd: Its cost; None when the price is not known.
        usd_per_second: Price of a second at that length.
        cheaper_seconds: A longer length with no higher cost in total, where the table has one.
        reason: The reason, as one sentence for people.
    """

    seconds: int
    usd: Decimal | None
    usd_per_second: Decimal | None
    cheaper_seconds: int | None
    reason: str


def optimize_duration(
    content_type: str = "product",
    *,
    minimum_seconds: int = 5,
    longest_seconds: int = 20,
    usd_per_second: Mapping[int, Decimal],
) -> DurationAdvice:
    """Advise a length: the one that the content needs, within the acceptable minimum and the offered maximum.

    Where a step of the price table makes a longer video no more expensive, the longer one is named too.

    Args:
        content_type: `product`, `broll`, `establishing` or `abstract`; any other gets the default of 10 s.
        minimum_seconds: The shortest acceptable length.
        longest_seconds: The longest that the provider makes.
        usd_per_second: Price of a second by the duration from which it holds.

    Raises:
        InvalidInput: The minimum is longer than what the provider makes.
    """
    if not 1 <= minimum_seconds <= longest_seconds:
        raise InvalidInput(f"a minimum of {minimum_seconds} s is not within 1 to {longest_seconds} s")
    advised = ADVISED_SECONDS.get(content_type, DEFAULT_SECONDS)
    seconds = min(max(advised, minimum_seconds), longest_seconds)
    cost = usd_for(seconds, usd_per_second)
    return DurationAdvice(
        seconds=seconds,
        usd=cost,
        usd_per_second=cost / seconds if cost is not None else None,
        cheaper_seconds=longest_at_same_price(seconds, longest_seconds=longest_seconds, usd_per_second=usd_per_second),
        reason=_explain(content_type, advised, seconds, minimum_seconds),
    )


def longest_at_same_price(
    seconds: int, *, longest_seconds: int = 20, usd_per_second: Mapping[int, Decimal]
) -> int | None:
    """Return the longest length above `seconds` that costs no more in total; None where the table has none."""
    cost = usd_for(seconds, usd_per_second)
    longer = [
        step
        for step in range(seconds + 1, longest_seconds + 1)
        if cost is not None and (price := usd_for(step, usd_per_second)) is not None and price <= cost
    ]
    return max(longer, default=None)


def duration_hints(shot: Shot, *, usd_per_second: Mapping[int, Decimal]) -> tuple[str, ...]:
    """Advise on a shot's duration: a longer one that costs no more, or a shorter one that suits its content.

    The kind of content is read from the shot's metadata (`content_type: product`); without it only prices count.
    """
    hints: list[str] = []
    cost = usd_for(shot.duration, usd_per_second)
    longer = longest_at_same_price(shot.duration, usd_per_second=usd_per_second)
    if longer and cost is not None and (longer_cost := usd_for(longer, usd_per_second)) is not None:
        hints.append(f"{longer} s would cost {usd(longer_cost)}, {shot.duration} s cost {usd(cost)}")
    content_type = shot.metadata.get("content_type")
    advised = ADVISED_SECONDS.get(content_type or "")
    if advised is not None and advised < shot.duration:
        cheaper = usd_for(advised, usd_per_second)
        price = ""
        if cheaper is not None and cost is not None:
            price = f" and cost {usd(cheaper)} instead of {usd(cost)}"
        hints.append(f"{advised} s suit {content_type} content{price}")
    return tuple(hints)


def _explain(content_type: str, advised: int, seconds: int, minimum_seconds: int) -> str:
    if seconds == advised:
        return f"{seconds} s suit {content_type} content"
    if seconds == minimum_seconds:
        return f"{advised} s would suit {content_type} content; {seconds} s is the least that is acceptable"
    return f"{advised} s would suit {content_type} content; {seconds} s is the longest that is offered"
