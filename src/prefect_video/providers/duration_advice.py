"""Choosing a duration: the guide's advice by kind of content, held against a provider's price table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from prefect_video.errors import InvalidInput
from prefect_video.providers.pricing import usd_for
from prefect_video.shots import Shot

ContentType = Literal["product", "broll", "establishing", "abstract"]

ADVISED_SECONDS: Final[Mapping[str, int]] = {"product": 10, "broll": 8, "establishing": 12, "abstract": 15}
"""Good lengths by kind of content: a product shot balances quality and cost, b-roll may be short, and so on."""

DEFAULT_SECONDS: Final = 10


@dataclass(frozen=True)
class DurationAdvice:
    """A length to ask for, and why.

    Attributes:
        seconds: The length that is advised.
        usd: What it costs; None when the price is not known.
        usd_per_second: Price of a second at that length.
        cheaper_seconds: A length that is not shorter and costs no more in all, where the table has one.
        reason: One sentence for people.
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
    """The length to ask for: what the content needs, at least what is acceptable, at most what is offered.

    Where a step of the price table makes a longer video no dearer, the longer one is named too.

    Args:
        content_type: `product`, `broll`, `establishing`, `abstract`; another word counts as `product`.
        minimum_seconds: The shortest acceptable length.
        longest_seconds: The longest that the provider makes.
        usd_per_second: Price of a second by the duration from which it holds.

    Raises:
        InvalidInput: Nothing that is acceptable can be made.
    """
    if not 1 <= minimum_seconds <= longest_seconds:
        raise InvalidInput(f"a minimum of {minimum_seconds} s is not within 1 to {longest_seconds} s")
    advised = ADVISED_SECONDS.get(content_type, DEFAULT_SECONDS)
    seconds = min(max(advised, minimum_seconds), longest_seconds)
    usd = usd_for(seconds, usd_per_second)
    return DurationAdvice(
        seconds=seconds,
        usd=usd,
        usd_per_second=usd / seconds if usd is not None else None,
        cheaper_seconds=longest_at_same_price(seconds, longest_seconds=longest_seconds, usd_per_second=usd_per_second),
        reason=_reason(content_type, advised, seconds, minimum_seconds),
    )


def longest_at_same_price(
    seconds: int, *, longest_seconds: int = 20, usd_per_second: Mapping[int, Decimal]
) -> int | None:
    """The longest longer length that costs no more in all, where a step of the price table makes one; else None."""
    usd = usd_for(seconds, usd_per_second)
    longer = [
        step
        for step in range(seconds + 1, longest_seconds + 1)
        if usd is not None and (price := usd_for(step, usd_per_second)) is not None and price <= usd
    ]
    return max(longer, default=None)


def duration_hints(shot: Shot, *, usd_per_second: Mapping[int, Decimal]) -> tuple[str, ...]:
    """Advice on a shot's duration: a longer one that costs no more, a shorter one that its content needs.

    The kind of content is read from the shot's metadata (`content_type: product`); without it only prices are looked
    at.
    """
    hints: list[str] = []
    usd = usd_for(shot.duration, usd_per_second)
    if longer := longest_at_same_price(shot.duration, usd_per_second=usd_per_second):
        hints.append(f"{longer} s would cost ${usd_for(longer, usd_per_second):.2f}, {shot.duration} s cost ${usd:.2f}")
    kind = shot.metadata.get("content_type")
    advised = ADVISED_SECONDS.get(kind or "")
    if advised is not None and advised < shot.duration:
        cheaper = usd_for(advised, usd_per_second)
        price = f" and cost ${cheaper:.2f} instead of ${usd:.2f}" if cheaper is not None and usd is not None else ""
        hints.append(f"{advised} s suit {kind} content{price}")
    return tuple(hints)


def _reason(content_type: str, advised: int, seconds: int, minimum_seconds: int) -> str:
    if seconds == advised:
        return f"{seconds} s suit {content_type} content"
    if seconds == minimum_seconds:
        return f"{advised} s would suit {content_type} content; {seconds} s is the least that is acceptable"
    return f"{advised} s would suit {content_type} content; {seconds} s is the longest that is offered"
