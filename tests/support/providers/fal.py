"""Shared parts of the tests of fal: a shot, a job, and the provider on an emulator or on scripted responses."""

from collections.abc import Callable

import httpx

from prefect_video import Shot
from prefect_video.emulator import Emulator
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.http import HttpSettings

FAST = HttpSettings(attempts=2, backoff_seconds=0.01, backoff_limit_seconds=0.05)

SHOT = Shot(id="a", prompt="a red balloon", model="emulator/video/text-to-video", duration=2, resolution="480p")

QUEUE = "https://queue.example"

JOB = "emulator/video/requests/r1"


def open_fal(emulator: Emulator) -> FalProvider:
    return FalProvider(
        api_key=emulator.key,
        queue_url=f"{emulator.url}/fal",
        keys_url=f"{emulator.url}/fal/.well-known/jwks.json",
        settings=FAST,
    )


def mock_fal(answer: Callable[[httpx.Request], httpx.Response]) -> tuple[FalProvider, list[httpx.Request]]:
    sent: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answer(request)

    return FalProvider(api_key="k", queue_url=QUEUE, settings=FAST, transport=httpx.MockTransport(note)), sent


async def submit(provider: FalProvider, shot: Shot = SHOT, webhook_url: str | None = None) -> str:
    return (await provider.submit(shot, idempotency_key="k", project="film", webhook_url=webhook_url)).id
