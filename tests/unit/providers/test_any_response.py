"""Any response of a host is read as a generation or one of our errors, and a submit that may be paid is not undone."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_video import Shot
from prefect_video.errors import InvalidInput, ProviderError, RequestRejected, SubmitOutcomeUnknown
from prefect_video.generations import Generation
from prefect_video.providers.base import Provider
from prefect_video.providers.fal.provider import FalProvider
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.openrouter.provider import OpenRouterProvider
from prefect_video.providers.replicate.provider import ReplicateProvider

ONCE = HttpSettings(attempts=1)
SHOT = Shot(id="a", prompt="a red balloon", model="emulator/video", duration=2)
IDS = {"openrouter": "job", "fal": "a/b/requests/r", "replicate": "p"}

WORDS = st.sampled_from(["COMPLETED", "IN_QUEUE", "succeeded", "completed", "failed", "expired", "pending", "odd"])
NAMES = st.sampled_from(
    [
        *("id", "status", "request_id", "status_url", "response_url", "error", "error_type", "detail", "output"),
        *(
            "urls",
            "unsigned_urls",
            "usage",
            "cost",
            "video",
            "url",
            "input",
            "created_at",
            "completed_at",
            "polling_url",
        ),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | WORDS
JSON = st.recursive(
    LEAVES | st.just("https://cdn.example/v.mp4"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=8),
    max_leaves=20,
)
JOBS = st.fixed_dictionaries({"id": st.just("x"), "request_id": st.just("x"), "status": WORDS}, optional={"output": JSON, "error": JSON, "urls": JSON, "usage": JSON, "video": JSON})  # fmt: skip
BODIES = (JSON | JOBS).map(json.dumps) | st.text(max_size=50)
CODES = st.sampled_from([200, 201, 202, 204, 301, 400, 401, 402, 403, 404, 408, 409, 410, 422, 429, 500, 501, 502, 503])


def mock_response(name: str, code: int, body: str) -> Provider:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(code, text=body)

    transport = httpx.MockTransport(answer)
    opened: dict[str, Callable[[], Provider]] = {
        "openrouter": lambda: OpenRouterProvider(api_key="k", settings=ONCE, transport=transport),
        "fal": lambda: FalProvider(api_key="k", settings=ONCE, transport=transport),
        "replicate": lambda: ReplicateProvider(api_key="k", settings=ONCE, transport=transport),
    }
    return opened[name]()


@pytest.mark.parametrize("name", sorted(IDS))
@settings(max_examples=150)
@given(code=CODES, body=BODIES)
def test_looking_and_cancelling(name: str, code: int, body: str) -> None:
    async def ask() -> None:
        provider = mock_response(name, code, body)
        for asking in (provider.retrieve(IDS[name]), provider.cancel(IDS[name])):
            outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
            assert isinstance(outcome, Generation | ProviderError)
            assert outcome.provider == name
        await provider.aclose()

    asyncio.run(ask())


@pytest.mark.parametrize("name", sorted(IDS))
@settings(max_examples=150)
@given(code=CODES, body=BODIES)
def test_submitting(name: str, code: int, body: str) -> None:
    async def ask() -> None:
        provider = mock_response(name, code, body)
        asking = provider.submit(SHOT, idempotency_key="k", project="film")
        outcome = (await asyncio.gather(asking, return_exceptions=True))[0]
        assert isinstance(outcome, Generation | RequestRejected | SubmitOutcomeUnknown)
        if isinstance(outcome, Generation):
            assert 200 <= code < 300
            assert outcome.id
        if isinstance(outcome, RequestRejected):
            assert 300 <= code < 500
        await provider.aclose()

    asyncio.run(ask())


@pytest.mark.parametrize("name", ["openrouter", "replicate"])
@settings(max_examples=100)
@given(body=st.binary(max_size=60), headers=st.dictionaries(st.sampled_from(["X-OpenRouter-Signature", "webhook-id", "webhook-timestamp", "webhook-signature"]), st.text(max_size=30)))  # fmt: skip
def test_deliveries_by_strangers(name: str, body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="webhook"):
        mock_response(name, 200, "{}").parse_webhook(headers, body)
