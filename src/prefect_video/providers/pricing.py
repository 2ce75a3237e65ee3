"""Prices, read from `prices.yaml`, and the plans of the Sora dialect, from the guide that defines it (October 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter

from prefect_video.generations import Status
from prefect_video.providers.base import Capabilities
from prefect_video.shots import AspectRatio, Resolution, Shot

PriceByDuration = Mapping[int, Decimal]
"""USD per second by the duration, in seconds, from which the price holds."""


Lines = Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}p$")]
"""The length of the shorter side: `720p`, also one that no resolution of ours has."""


class PriceList(BaseModel):
    """What one provider charges.

    Attributes:
        source: Where the prices were read.
        as_of: When.
        models: USD per second by a pattern of the model's name: one for all, by resolution, or by duration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    as_of: date
    models: dict[str, Decimal | dict[Lines, Decimal] | dict[int, Decimal]]

    def usd_per_second(self, model: str, *, resolution: str, seconds: float) -> Decimal | None:
        """Price of a second of such a video; None when it is not listed."""
        for pattern, price in self.models.items():
            if fnmatchcase(model, pattern):
                return _pick(price, resolution, seconds)
        return None


def _pick(price: Decimal | Mapping[str, Decimal] | PriceByDuration, resolution: str, seconds: float) -> Decimal | None:
    if isinstance(price, Decimal):
        return price
    listed = {str(key): usd for key, usd in price.items()}
    steps = [int(key) for key in listed if key.isdecimal()]
    if not steps:
        return listed.get(resolution)
    return listed[str(max((step for step in steps if step <= seconds), default=min(steps)))]


@cache
def price_lists() -> Mapping[str, PriceList]:
    """Every provider's prices, by the provider's name."""
    text = files("prefect_video.providers").joinpath("prices.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, PriceList]).validate_python(yaml.safe_load(text))


def listed_usd(provider: str, shot: Shot, *, usd_per_second: Decimal | None = None) -> Decimal | None:
    """What one generation of a shot should cost, in USD; None when its price is not known.

    Args:
        provider: Whose prices.
        shot: What is to be made.
        usd_per_second: Counts instead of the list, where an account has a price of its own.
    """
    seconds = shot.length_seconds
    if usd_per_second is None and (prices := price_lists().get(provider)):
        usd_per_second = prices.usd_per_second(shot.model, resolution=shot.lines, seconds=seconds)
    return None if usd_per_second is None else usd_per_second * Decimal(str(seconds)).normalize()


def usd_for(duration_seconds: int, table: PriceByDuration) -> Decimal | None:
    """The price in USD of a video of this length; None when the table is empty."""
    if not table:
        return None
    steps = [step for step in table if step <= duration_seconds]
    return table[max(steps, default=min(table))] * duration_seconds


def _sora_table() -> PriceByDuration:
    table = price_lists()["sora"].models["*"]
    assert not isinstance(table, Decimal)
    return {int(step): usd for step, usd in table.items()}


SORA_USD_PER_SECOND: Final[PriceByDuration] = _sora_table()
"""Price of a second by the duration from which it holds; a shorter video costs the first row's price."""

_RATIOS: Final[tuple[AspectRatio, ...]] = ("16:9", "9:16", "1:1")


def _plan(sizes: Mapping[Resolution, int], concurrency: int, monthly_videos: int | None = None) -> Capabilities:
    return Capabilities(
        sizes=sizes,
        aspect_ratios=_RATIOS,
        concurrency=concurrency,
        monthly_videos=monthly_videos,
        usd_per_second=SORA_USD_PER_SECOND,
        lookup="key",
        free_outcomes=(Status.FAILED, Status.CANCELLED),
    )


SORA_PLANS: Final[Mapping[str, Capabilities]] = {
    "plus": _plan({"720p": 5, "480p": 10}, 2),
    "pro": _plan({"1080p": 20, "720p": 20}, 5),
    "api-tier-1": _plan({"1080p": 20, "720p": 20}, 10, 100),
    "api-tier-2": _plan({"1080p": 20, "720p": 20}, 25, 500),
    "api-tier-3": _plan({"1080p": 20, "720p": 20}, 50, 1000),
    "emulator": _plan({"1080p": 20, "720p": 20, "480p": 20}, 10),
}
"""What each plan allows: longest duration by resolution, generations at once, videos a month."""
