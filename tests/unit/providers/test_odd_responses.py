"""Responses in an odd form: wrapped by a relay, or with a field of another type. A paid job is not lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from prefect_video.errors import SubmitOutcomeUnknown
from prefect_video.generations import Status
from prefect_video.providers.base import Provider
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.replicate.provider import ReplicateProvider
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.providers.statuses import STATUSES
from prefect_video.shots import Shot
from tests.support.accounts import QUICK

SHOT = Shot(id="a", prompt="a cat", model="emulator/video", duration=4, resolution="720p")

OPEN: Mapping[str, Callable[[httpx.MockTransport], Provider]] = {
    "sora": lambda at: SoraProvider(api_key="k", endpoint="https://x/v1", settings=QUICK, transport=at),
    "openai": lambda at: OpenAIProvider(api_key="k", settings=QUICK, transport=at),
    "openrouter": lambda at: OpenRouterProvider(api_key="k", settings=QUICK, transport=at),
    "fal": lambda at: FalProvider(api_key="k", settings=QUICK, transport=at),
    "replicate": lambda at: ReplicateProvider(api_key="k", settings=QUICK, transport=at),
}
IDS: Mapping[str, str] = dict.fromkeys(OPEN, "v") | {"fal": "emulator/video/requests/v"}


def mock_response(name: str, body: Mapping[str, Any]) -> Provider:
    """The provider at a server that answers everything with one document."""
    return OPEN[name](httpx.MockTransport(lambda _: httpx.Response(200, json=dict(body))))


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("string", sorted(STATUSES))
async def test_every_dialect_knows_every_word(name: str, string: str, caplog: pytest.LogCaptureFixture) -> None:
    video = {"video": {"url": "https://cdn.example/v.mp4"}, "output": "https://cdn.example/v.mp4"}
    generation = await mock_response(name, {"id": "v", "status": string.upper(), **video}).retrieve(IDS[name])
    assert generation.status is STATUSES[string]
    assert "unknown status" not in caplog.text


ODD: Mapping[str, list[dict[str, Any]]] = {
    "sora": [{"created": "now"}, {"usage": "lots"}, {"result": {}}, {"error": [], "parameters": "none"}],
    "openai": [
        {"progress": "0%"},
        {"error": []},
        {"size": [1, 2]},
        {"seconds": [], "duration": "8s", "model": 7},
        {"created_at": {}, "error": {"code": 1.5, "message": "x"}},
        {"num_frames": "many", "fps": "film", "duration_s": "long"},
    ],
    "openrouter": [{"usage": {"cost": "free"}}, {"urls": "none"}, {"error": 7}, {"created_at": []}],
    "fal": [{"status_url": 7}],
    "replicate": [{"input": "a cat"}, {"created_at": 1.5, "data_removed": "no idea"}, {"model": []}],
}


@pytest.mark.parametrize(("name", "odd"), [(name, odd) for name, many in ODD.items() for odd in many])
async def test_an_odd_field_does_not_cost_the_id_of_a_paid_job(name: str, odd: dict[str, Any]) -> None:
    provider = mock_response(name, {"id": "v", "request_id": "v", "status": "queued", **odd})
    accepted = await provider.submit(SHOT, idempotency_key="k", project="film")
    assert accepted.id == IDS[name]
    assert accepted.status is Status.QUEUED


@pytest.mark.parametrize("name", OPEN)
async def test_a_number_is_an_id(name: str) -> None:
    provider = mock_response(name, {"id": 17, "request_id": 17, "status": "queued"})
    accepted = await provider.submit(SHOT, idempotency_key="k", project="film")
    assert accepted.id == IDS[name].removesuffix("v") + "17"


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("odd", [{}, {"id": None}, {"id": []}, {"id": ""}])
async def test_without_an_id_it_is_unknown_what_was_accepted(name: str, odd: dict[str, Any]) -> None:
    body = {"status": "queued", **odd, **({"request_id": odd["id"]} if odd else {})}
    with pytest.raises(SubmitOutcomeUnknown, match="names no generation"):
        await mock_response(name, body).submit(SHOT, idempotency_key="k", project="film")
