"""The price list: a price that is not known is never 0."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from prefect_video.providers.pricing import SORA_USD_PER_SECOND, PriceList, listed_usd, price_lists, usd_for
from prefect_video.shots import Shot

SHOT = Shot(id="a", prompt="a cat", duration=8, resolution="720p")


def usd(provider: str, **changes: object) -> Decimal | None:
    return listed_usd(provider, SHOT.model_copy(update=changes))


def test_every_list_says_where_it_is_from_and_prices_are_plausible() -> None:
    assert {"sora", "openai", "vllm_omni", "sglang", "trtllm"} <= set(price_lists())
    for name, prices in price_lists().items():
        assert prices.source
        assert prices.as_of.year >= 2025
        for price in prices.models.values():
            values = [price] if isinstance(price, Decimal) else list(price.values())
            assert all(0 <= value <= 5 for value in values), name
            assert all(value > 0 for value in values) or prices.source == "self-hosted", name


@pytest.mark.parametrize(
    ("model", "resolution", "expected"),
    [
        ("sora-2", "720p", "0.80"),
        ("sora-2-2025-10-06", "720p", "0.80"),
        ("sora-2-pro", "720p", "2.40"),
        ("sora-2-pro-2025-10-06", "1080p", "5.60"),
        ("sora-2-pro", "480p", None),
        ("veo-4", "720p", None),
    ],
)
def test_openais_prices(model: str, resolution: str, expected: str | None) -> None:
    price = usd("openai", model=model, resolution=resolution)
    assert price == (None if expected is None else Decimal(expected))


def test_the_sizes_between_the_resolutions_have_their_own_price() -> None:
    for size in ("1792x1024", "1024x1792"):
        assert usd("openai", model="sora-2-pro", size=size) == Decimal("4.00")
    assert usd("openai", model="sora-2-pro", size="1280x720") == Decimal("2.40")
    assert usd("openai", model="sora-2-pro", size="640x360") is None


def test_unknown_is_unknown_and_a_gpu_of_ones_own_is_free() -> None:
    assert usd("litellm") is None
    assert usd("unknown") is None
    assert usd("vllm_omni") == 0
    assert usd("vllm_omni") is not None


def test_an_accounts_own_price_counts_and_frames_are_seconds() -> None:
    assert listed_usd("openai", SHOT, usd_per_second=Decimal("0.05")) == Decimal("0.40")
    assert listed_usd("unknown", SHOT, usd_per_second=Decimal(0)) == 0
    frames = SHOT.model_copy(update={"num_frames": 81, "fps": 16})
    assert listed_usd("openai", frames) == Decimal("0.10") * 81 / 16


def test_the_guides_table_is_read_as_it_was_written() -> None:
    guide = {5: "0.30", 10: "0.25", 15: "0.22", 20: "0.20"}
    assert {step: Decimal(usd) for step, usd in guide.items()} == SORA_USD_PER_SECOND
    for seconds in range(1, 21):
        own = SHOT.model_copy(update={"duration": seconds})
        assert listed_usd("sora", own) == usd_for(seconds, SORA_USD_PER_SECOND)


def test_a_list_with_a_typing_error_is_no_list() -> None:
    for models in ({"*": {"4k": "0.1"}}, {"*": "cheap"}, {"*": None}):
        with pytest.raises(ValidationError):
            PriceList.model_validate({"source": "x", "as_of": "2026-01-01", "models": models})
