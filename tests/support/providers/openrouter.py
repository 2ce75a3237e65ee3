"""Shared parts of the tests of OpenRouter: a shot, and the provider on an emulator or on scripted responses."""

import httpx

from prefect_video import Shot
from prefect_video.emulator import Emulator
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.openrouter.provider import OpenRouterProvider

FAST = HttpSettings(attempts=2, backoff_seconds=0.01, backoff_limit_seconds=0.05)

SHOT = Shot(id="a", prompt="a red balloon", model="emulator/video", duration=2, resolution="480p")

BASE = "https://openrouter.example/api/v1"


def mock_openrouter(*answers: httpx.Response) -> tuple[OpenRouterProvider, list[httpx.Request]]:
    left, sent = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    transport = httpx.MockTransport(answer)
    return OpenRouterProvider(api_key="sk-or-1", base_url=BASE, settings=FAST, transport=transport), sent


async def submit(provider: OpenRouterProvider, shot: Shot = SHOT, webhook_url: str | None = None) -> str:
    return (await provider.submit(shot, idempotency_key="k", project="film", webhook_url=webhook_url)).id


def open_openrouter(emulator: Emulator) -> OpenRouterProvider:
    return OpenRouterProvider(
        api_key=emulator.key,
        base_url=f"{emulator.url}/api/v1",
        webhook_secrets=("old", emulator.webhook_secret),
        settings=FAST,
    )
