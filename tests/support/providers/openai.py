"""Shared parts of the tests of the OpenAI dialect: a scripted server, a shot, and profiles at the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from prefect_video.emulator import Emulator
from prefect_video.generations import Generation
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.shots import Shot
from tests.support.accounts import QUICK
from tests.unit.providers.known import known as recorded

ENGINES = ("vllm_omni", "sglang", "trtllm")
SHOT = Shot(id="a", prompt="a cat", model="wan", duration=2, resolution="480p")
EXTRA = {
    "seed": 7,
    "negative_prompt": "dogs",
    "fps": 16,
    "num_frames": 33,
    "num_inference_steps": 4,
    "guidance_scale": 2.5,
}

Open = Callable[..., OpenAIProvider]


@pytest.fixture
async def open_profile(emulator: Emulator) -> AsyncIterator[Open]:
    opened: list[OpenAIProvider] = []

    def open_named(profile: str, mount: str | None = None) -> OpenAIProvider:
        path = "/v1" if profile == "generic" else f"/profiles/{mount or profile}/v1"
        opened.append(
            OpenAIProvider(api_key=emulator.key, base_url=emulator.url + path, profile=profile, settings=QUICK)
        )
        return opened[-1]

    yield open_named
    for provider in opened:
        await provider.aclose()


class Server:
    """Scripted server: gives its responses in order, the last one repeatedly, and keeps the requests.

    Attributes:
        requests: The requests so far.
    """

    def __init__(self, *answers: httpx.Response) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def provider(self, profile: str = "generic", **options: Any) -> OpenAIProvider:
        transport = httpx.MockTransport(self)
        values = {"api_key": "sk-1", "base_url": "https://api.example/v1", "settings": QUICK, **options}
        return OpenAIProvider(profile=profile, transport=transport, **values)


def job(**fields: Any) -> httpx.Response:
    status = fields.pop("http", 200)
    return httpx.Response(status, json={"id": "video_1", "object": "video", "status": "queued", **fields})


async def submit(provider: OpenAIProvider, shot: Shot = SHOT) -> Generation:
    provider.check(shot)
    return await provider.submit(shot, idempotency_key="k", project="film")


async def find(provider: OpenAIProvider, shot: Shot, *, known: tuple[str, ...]) -> Generation | None:
    return await provider.find_unclaimed(shot, idempotency_key="k", sent_at=datetime.now(UTC), known=recorded(*known))
