"""Generations whose ids hold signs that mean something in an address, or that no address can hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.generations import Status
from prefect_video.ledger import State
from prefect_video.providers.base import Provider
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.replicate.provider import ReplicateProvider
from prefect_video.shots import Shot
from tests.support.recovery import a_shot, statuses
from tests.support.recovery_fixtures import OpenHarness


async def test_an_id_with_reserved_signs_is_polled_and_fetched(open_harness: OpenHarness) -> None:
    harness = open_harness(ids="reserved")
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_an_id_that_cannot_be_requested_is_held_at_its_submit(open_harness: OpenHarness) -> None:
    harness = open_harness(ids="unusable", echo_metadata=False)
    report = await harness.run(a_shot())
    assert statuses(report) == ["held"]
    row = await harness.row()
    assert row.state is State.UNKNOWN
    async with harness.ledger() as ledger:
        assert [job.id for job in await ledger.jobs.find(needs_attention=True)] == [row.id]
    assert statuses(await harness.run(a_shot())) == ["held"]
    assert harness.paid == (1, 1)


def openrouter(emulator: Emulator) -> Provider:
    return OpenRouterProvider(api_key=emulator.key, base_url=f"{emulator.url}/api/v1")


def replicate(emulator: Emulator) -> Provider:
    return ReplicateProvider(api_key=emulator.key, base_url=f"{emulator.url}/replicate/v1")


def openai(emulator: Emulator) -> Provider:
    return OpenAIProvider(api_key=emulator.key, base_url=f"{emulator.url}/v1", models={"emulator/video": "sora-2"})


def fal(emulator: Emulator) -> Provider:
    return FalProvider(
        api_key=emulator.key, queue_url=f"{emulator.url}/fal", keys_url=f"{emulator.url}/fal/.well-known/jwks.json"
    )


def open_profile(profile: str) -> Callable[[Emulator], Provider]:
    def open_provider(emulator: Emulator) -> Provider:
        return OpenAIProvider(
            api_key=emulator.key,
            base_url=f"{emulator.url}/profiles/{profile}/v1",
            profile=profile,
            models={"emulator/video": "sora-2"},
        )

    return open_provider


OTHERS = [
    openai,
    openrouter,
    replicate,
    fal,
    *(open_profile(profile) for profile in ("vllm_omni", "sglang", "trtllm", "litellm")),
]


@pytest.mark.parametrize("open_provider", OTHERS)
async def test_other_dialects_quote_ids_too(open_provider: Callable[[Emulator], Provider]) -> None:
    shot = Shot(id="a", prompt="a red balloon", model="emulator/video", duration=1, resolution="480p")
    with Emulator(EmulatorSettings(port=0, speed=500, render="plate", ids="reserved")) as emulator:
        provider = open_provider(emulator)
        accepted = await provider.submit(shot, idempotency_key="k", project="film")
        emulator.wait_until_idle()
        done = await provider.retrieve(accepted.id)
        assert (done.id, done.status) == (accepted.id, Status.COMPLETED)
        if provider.capabilities.can_cancel:
            assert (await provider.cancel(accepted.id)).id == accepted.id
        await provider.aclose()
