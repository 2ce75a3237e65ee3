"""Shared parts of the tests of Replicate: a shot, and the provider on an emulator or on scripted responses."""

import httpx

from prefect_video import Shot
from prefect_video.emulator import Emulator
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.replicate.provider import ReplicateProvider

FAST = HttpSettings(attempts=2, backoff_seconds=0.01, backoff_limit_seconds=0.05)

SHOT = Shot(id="a", prompt="a red balloon", model="emulator/video", duration=2, resolution="480p")

BASE = "https://api.example/v1"

HASH = "9c49fe41d6b2a0e62199dc96bee4a9dd3565a4c563f9b80998358f14322c34f6"


def open_replicate(emulator: Emulator, cancel_after_seconds: int | None = None) -> ReplicateProvider:
    return ReplicateProvider(
        api_key=emulator.key,
        base_url=f"{emulator.url}/replicate/v1",
        webhook_secrets=(emulator.webhook_secret,),
        cancel_after_seconds=cancel_after_seconds,
        settings=FAST,
    )


def mock_replicate(*answers: httpx.Response) -> tuple[ReplicateProvider, list[httpx.Request]]:
    left, sent = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    return ReplicateProvider(api_key="r8", base_url=BASE, settings=FAST, transport=httpx.MockTransport(answer)), sent


async def submit(provider: ReplicateProvider, shot: Shot = SHOT, webhook_url: str | None = None) -> str:
    return (await provider.submit(shot, idempotency_key="k", project="film", webhook_url=webhook_url)).id
