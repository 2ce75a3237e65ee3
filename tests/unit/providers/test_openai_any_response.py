"""Any response of an OpenAI server is read as a generation, or as an error that says what may be paid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video.errors import InvalidInput, ProviderError, RequestRejected, SubmitOutcomeUnknown
from prefect_video.generations import Generation, Status
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.openai.profiles import PROFILES
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.providers.openai.responses import path_part, unwrap_id
from tests.support.providers.openai import SHOT

WORDS = st.sampled_from(["queued", "in_progress", "completed", "failed", "deleted", "odd", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | WORDS
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
)
FIELDS = (
    "id",
    "created_at",
    "expires_at",
    "progress",
    "seconds",
    "duration",
    "size",
    "url",
    "error",
    "prompt",
    "model",
)
JOBS = st.fixed_dictionaries(
    {"id": st.sampled_from(["video_1", "..", "é", "a/b"]), "object": st.just("video"), "status": WORDS},
    optional={name: JSON for name in FIELDS if name != "id"},
)
ERRORS = st.fixed_dictionaries({"error": JSON | st.dictionaries(st.sampled_from(["code", "message", "detail"]), JSON)})
PAGES = st.fixed_dictionaries({"data": st.lists(JOBS, max_size=3)}, optional={"has_more": JSON, "last_id": JSON})
BODIES = (JOBS | ERRORS | PAGES | JSON).map(json.dumps) | st.text(max_size=40)
CODES = st.sampled_from([200, 202, 204, 302, 400, 401, 403, 404, 408, 409, 422, 429, 500, 501, 503])


def mock_response(code: int, body: str, profile: str) -> OpenAIProvider:
    transport = httpx.MockTransport(lambda _: httpx.Response(code, text=body))
    once = HttpSettings(attempts=1)
    return OpenAIProvider(api_key="sk-1", base_url="https://x/v1", profile=profile, settings=once, transport=transport)


async def outcome(asking: Awaitable[object]) -> object:
    return (await asyncio.gather(asking, return_exceptions=True))[0]


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=120)
@given(code=CODES, body=BODIES)
def test_any_answer(profile: str, code: int, body: str) -> None:
    async def ask() -> None:
        provider = mock_response(code, body, profile)
        for asking in (provider.retrieve("video_1"), provider.cancel("video_1")):
            reading = await outcome(asking)
            assert isinstance(reading, Generation | ProviderError), reading
            if isinstance(reading, Generation):
                assert reading.id == "video_1"
                assert (reading.result is not None) == (reading.status is Status.COMPLETED)
        listed = await outcome(list_all(provider))
        assert isinstance(listed, list | ProviderError), listed
        bought = await outcome(provider.submit(SHOT, idempotency_key="k", project="film"))
        assert isinstance(bought, Generation | RequestRejected | SubmitOutcomeUnknown), bought
        if isinstance(bought, RequestRejected):
            assert code in (302, 400, 401, 403, 404, 409, 422, 429)
        if isinstance(bought, Generation):
            assert code < 300 or bought.status.ended
        await provider.aclose()

    asyncio.run(ask())


async def list_all(provider: OpenAIProvider) -> list[Generation]:
    return [generation async for generation in provider.list()]


@given(st.text())
def test_an_id_is_refused_or_stays_one_part_of_the_path(generation_id: str) -> None:
    try:
        part = path_part(generation_id)
    except InvalidInput:
        return
    assert not set(part) & set("/?#\\ ")
    assert part not in ("", ".", "..")
    assert isinstance(unwrap_id(generation_id), str)
