"""Prices of videos by provider, model, resolution and duration, read from `prices.yaml`."""

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

from prefect_video.shots import Shot

PriceByDuration = Mapping[int, Decimal]
"""Prices in USD per second by the duration, in seconds, from which each holds."""


Lines = Annotated[str, StringConstraints(pattern=r"^[0-9]{3,4}p$")]
"""Length of the shorter side, such as `720p`; also one that is no `Resolution`."""


class PriceList(BaseModel):
    """Price list of one provider.

    Attributes:
        source: Source of the prices.
        as_of: Date of the prices.
        models: USD per second by a pattern of the model's name: one price, or several by resolution or duration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    as_of: date
    models: dict[str, Decimal | dict[Lines, Decimal] | dict[int, Decimal]]

    def usd_per_second(self, model: str, *, resolution: str, seconds: float) -> Decimal | None:
        """Return the price in USD of a second of such a video; None when it is not listed."""
        for pattern, price in self.models.items():
            if fnmatchcase(model, pattern):
                return _pick_price(price, resolution, seconds)
        return None


def _pick_price(
    price: Decimal | Mapping[str, Decimal] | PriceByDuration, resolution: str, seconds: float
) -> Decimal | None:
    if isinstance(price, Decimal):
        return price
    listed = {str(key): usd for key, usd in price.items()}
    steps = [int(key) for key in listed if key.isdecimal()]
    if not steps:
        return listed.get(resolution)
    return listed[str(max((step for step in steps if step <= seconds), default=min(steps)))]


@cache
def price_lists() -> Mapping[str, PriceList]:
    """Return the price list of every provider by its name."""
    text = files("prefect_video.providers").joinpath("prices.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, PriceList]).validate_python(yaml.safe_load(text))


def listed_usd(provider: str, shot: Shot, *, usd_per_second: Decimal | None = None) -> Decimal | None:
    """Return the listed cost of one generation of a shot, in USD; None when its price is not known.

    Args:
        provider: Name of the provider.
        shot: The shot, with the provider's name of its model.
        usd_per_second: Price of the account, which counts instead of the list.
    """
    seconds = shot.length_seconds
    if usd_per_second is None and (prices := price_lists().get(provider)):
        usd_per_second = prices.usd_per_second(shot.model, resolution=shot.lines, seconds=seconds)
    return None if usd_per_second is None else usd_per_second * Decimal(str(seconds)).normalize()


def usd_for(duration_seconds: int, table: PriceByDuration) -> Decimal | None:
    """Return the price in USD of a video of this length; None when the table is empty."""
    if not table:
        return None
    steps = [step for step in table if step <= duration_seconds]
    return table[max(steps, default=min(table))] * duration_seconds


def _sora_table() -> PriceByDuration:
    table = price_lists()["sora"].models["*"]
    assert not isinstance(table, Decimal)
    return {int(step): usd for step, usd in table.items()}


SORA_USD_PER_SECOND: Final[PriceByDuration] = _sora_table()
"""Price in USD of a second by the duration from which it holds; a shorter video costs the first row's price."""
