"""OpenRouter's list of models: the capabilities of each, and its prices in several notations."""

from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidResponse, Unsupported
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from tests.support.providers.openrouter import SHOT, mock_openrouter, open_openrouter


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[OpenRouterProvider]:
    provider = open_openrouter(emulator)
    yield provider
    await provider.aclose()


async def test_models_list_what_they_can_and_charge(provider: OpenRouterProvider, emulator: Emulator) -> None:
    assert provider.estimate(SHOT) is None
    await provider.load_capabilities()
    await provider.load_capabilities()
    assert emulator.usage()["requests"]["models"] == 1
    assert provider.estimate(SHOT) == Decimal("0.60")
    sized = SHOT.model_copy(update={"model": "emulator/by-size", "duration": 4, "resolution": "720p"})
    provider.check(sized)
    assert provider.estimate(sized) == Decimal("0.40")
    assert provider.estimate(sized.model_copy(update={"resolution": "1080p"})) == Decimal("1.60")
    assert provider.estimate(SHOT.model_copy(update={"model": "emulator/by-token"})) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "emulator/by-size", "resolution": "480p", "duration": 4}, "has no 480p; it has 720p, 1080p"),
        ({"model": "emulator/by-size", "resolution": "720p", "duration": 5}, "makes no 5 s; the nearest is 6 s"),
        ({"model": "emulator/by-size", "resolution": "720p", "duration": 4, "aspect_ratio": "1:1"}, "has no 1:1"),
        ({"model": "emulator/by-token", "seed": 1}, "seed: openrouter model 'emulator/by-token' takes none"),
        ({"model": "other/video"}, "openrouter has no 'other/video'; it has emulator/video,"),
        ({"negative_prompt": "people"}, "negative_prompt: openrouter model 'emulator/video' takes none"),
    ],
)
async def test_what_a_model_cannot_make_is_refused(
    provider: OpenRouterProvider, given: dict[str, object], message: str
) -> None:
    await provider.load_capabilities()
    with pytest.raises(Unsupported) as caught:
        provider.check(SHOT.model_copy(update=given))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("skus", "usd"),
    [
        ({"duration_seconds_without_audio_720p": "0.03", "duration_seconds_with_audio_720p": "0.05"}, "0.05"),
        ({"cents_per_second_output": "12"}, "0.12"),
        ({"cents_per_second_output_720p": 17, "cents_per_second_output_1080p": 29}, "0.17"),
        ({"per-video-second": "0.50", "per-video-second-1080p": "0.75"}, "0.50"),
        ({"text_to_video_duration_seconds_720p": "0.1", "duration_seconds": "0.2"}, "0.1"),
        ({"duration_seconds_1080p": "0.15"}, None),
        ({"video_tokens": "0.0000014", "reference_images": "0.04"}, None),
        ({}, None),
        (None, None),
    ],
)
async def test_prices_in_the_notations_of_the_models(skus: dict[str, object] | None, usd: str | None) -> None:
    provider, _ = mock_openrouter(httpx.Response(200, json={"data": [{"id": "a/b", "pricing_skus": skus}]}))
    await provider.load_capabilities()
    shot = SHOT.model_copy(update={"model": "a/b", "duration": 10, "resolution": "720p"})
    assert provider.estimate(shot) == (None if usd is None else Decimal(usd) * 10)


def test_the_accounts_own_price_counts() -> None:
    provider = OpenRouterProvider(api_key="k", usd_per_second=Decimal("0.05"))
    assert provider.estimate(SHOT) == Decimal("0.10")


async def test_a_list_of_models_that_is_none_is_unreadable() -> None:
    provider, _ = mock_openrouter(httpx.Response(200, json={"data": "x"}))
    with pytest.raises(InvalidResponse):
        await provider.load_capabilities()
