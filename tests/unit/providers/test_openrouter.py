"""OpenRouter's dialect: models with their own limits and prices, two kinds of links, signed callbacks."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from prefect_video import ContentPolicyError, HeldForReview, InvalidInput
from prefect_video.downloads import LinkPolicy, download, open_download_client, probe
from prefect_video.emulator import Emulator
from prefect_video.emulator.dialects.openrouter import UNSIGNED_ONLY
from prefect_video.errors import (
    AuthenticationFailed,
    InvalidResponse,
    ProviderError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Status
from prefect_video.providers.openrouter.provider import OpenRouterProvider, open_provider
from tests.support.providers.openrouter import BASE, SHOT, mock_openrouter, open_openrouter, submit
from tests.support.webhook_receiver import WebhookReceiver


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[OpenRouterProvider]:
    provider = open_openrouter(emulator)
    yield provider
    await provider.aclose()


async def test_what_was_charged_is_reported_with_the_video(provider: OpenRouterProvider, emulator: Emulator) -> None:
    accepted = await provider.submit(SHOT, idempotency_key="k", project="film")
    assert accepted.status is Status.QUEUED
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    assert done.status is Status.COMPLETED
    assert done.cost_usd == Decimal("0.6")
    assert done.result is not None
    assert done.result.expires_at is not None
    assert done.result.video_url not in repr(done)


async def test_only_a_link_to_the_api_is_fetched_with_the_key(provider: OpenRouterProvider, emulator: Emulator) -> None:
    signed, unsigned = await submit(provider), await submit(provider, SHOT.model_copy(update={"model": UNSIGNED_ONLY}))
    emulator.wait_until_idle()
    to_cdn = provider.download_source(await provider.retrieve(signed))
    to_api = provider.download_source(await provider.retrieve(unsigned))
    assert to_cdn.headers == {}
    assert to_cdn.url.startswith(emulator.cdn)
    assert to_api.headers == {"Authorization": f"Bearer {emulator.key}"}
    assert to_api.url.startswith(f"{emulator.url}/api/v1/videos/")
    assert emulator.key not in repr(to_api)
    async with httpx.AsyncClient() as bare:
        assert (await bare.get(to_api.url)).status_code == 401
        assert (await bare.get(to_api.url, headers=to_api.headers)).content[4:8] == b"ftyp"
        assert (await bare.get(to_cdn.url)).content[4:8] == b"ftyp"


async def test_a_link_on_another_host_never_gets_the_key() -> None:
    done = {"id": "j", "status": "completed", "unsigned_urls": ["https://elsewhere.example/v.mp4"]}
    provider, _ = mock_openrouter(httpx.Response(200, json=done))
    assert provider.download_source(await provider.retrieve("j")).headers == {}


async def test_a_completed_job_without_links_has_its_documented_address() -> None:
    provider, _ = mock_openrouter(httpx.Response(200, json={"id": "j", "status": "completed"}))
    source = provider.download_source(await provider.retrieve("j"))
    assert source.url == f"{BASE}/videos/j/content?index=0"
    assert source.headers["Authorization"] == "Bearer sk-or-1"


@pytest.mark.parametrize(
    ("string", "status"),
    [
        ("pending", Status.QUEUED),
        ("in_progress", Status.PROCESSING),
        ("failed", Status.FAILED),
        ("cancelled", Status.CANCELLED),
        ("expired", Status.EXPIRED),
        ("EXPIRED", Status.EXPIRED),
        ("pondering", Status.FAILED),
    ],
)
async def test_statuses(string: str, status: Status, caplog: pytest.LogCaptureFixture) -> None:
    provider, _ = mock_openrouter(httpx.Response(200, json={"id": "j", "status": string, "error": "too bad"}))
    seen = await provider.retrieve("j")
    assert seen.status is status
    assert seen.fault is not None
    assert seen.fault.message == "too bad"
    assert ("unknown status" in caplog.text) == (string == "pondering")


async def test_what_is_sent() -> None:
    provider, sent = mock_openrouter(httpx.Response(202, json={"id": "j", "status": "pending"}))
    picture = "https://x.example/a.png"
    shot = SHOT.model_copy(update={"model": "sora-2", "seed": 7, "references": (picture,)})
    await submit(provider, shot, webhook_url="https://me.example/hook")
    assert json.loads(sent[0].content) == {
        "model": "openai/sora-2",
        "prompt": "a red balloon",
        "duration": 2,
        "resolution": "480p",
        "aspect_ratio": "16:9",
        "seed": 7,
        "input_references": [{"type": "image_url", "image_url": {"url": picture}}],
        "callback_url": "https://me.example/hook",
    }


async def test_refusals(provider: OpenRouterProvider, emulator: Emulator) -> None:
    with pytest.raises(ContentPolicyError):
        await submit(provider, SHOT.model_copy(update={"prompt": "[policy] x"}))
    with pytest.raises(RequestRejected, match="not a valid model ID"):
        await submit(provider, SHOT.model_copy(update={"model": "a/b"}))
    emulator.add_fault(operation="submit", kind="rate_limited", retry_after=7, times=1)
    with pytest.raises(RateLimited) as limited:
        await submit(provider)
    assert limited.value.retry_after == 7


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(402, json={"error": {"code": 402, "message": "Insufficient credits"}}), QuotaExhausted),
        (httpx.Response(403, json={"error": {"code": 403, "message": "no"}}), AuthenticationFailed),
        (httpx.Response(403, json={"error": {"code": 403, "metadata": {"reasons": ["x"]}}}), ContentPolicyError),
        (httpx.Response(502, text="<html>"), SubmitOutcomeUnknown),
        (httpx.Response(408), SubmitOutcomeUnknown),
        (httpx.Response(202, text="<html>"), SubmitOutcomeUnknown),
        (httpx.Response(202, json={"status": "pending"}), SubmitOutcomeUnknown),
    ],
)
async def test_answers_to_a_submit(answer: httpx.Response, kind: type[ProviderError]) -> None:
    provider, sent = mock_openrouter(answer)
    with pytest.raises(kind):
        await submit(provider)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("content policy violation", "moderation"),
        ("Your request was blocked by our moderation system.", "moderation"),
        ("The prompt was flagged", "moderation"),
        ({"code": 403, "message": "no", "metadata": {"reasons": ["violence"]}}, "moderation"),
        ("upstream out of memory", "error"),
        ({"code": 502, "message": "upstream"}, "502"),
    ],
)
async def test_a_job_that_policy_stopped_says_so(error: object, code: str) -> None:
    provider, _ = mock_openrouter(httpx.Response(200, json={"id": "j", "status": "failed", "error": error}))
    failed = await provider.retrieve("j")
    assert failed.fault is not None
    assert failed.fault.code == code


async def test_an_unanswered_submit_needs_a_human(provider: OpenRouterProvider) -> None:
    assert provider.capabilities.lookup == "none"
    with pytest.raises(HeldForReview, match="does not list"):
        await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})
    with pytest.raises(RequestRejected, match="does not list"):
        _ = [generation async for generation in provider.list()]


async def test_nothing_can_be_cancelled(provider: OpenRouterProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider)
    assert (await provider.cancel(generation_id)).status in (Status.QUEUED, Status.PROCESSING, Status.COMPLETED)
    emulator.wait_until_idle()
    assert emulator.usage()["completed"] == 1


async def test_a_polling_address_elsewhere_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    evil = {"id": "j", "status": "pending", "polling_url": "https://evil.example/api/v1/videos/j"}
    provider, sent = mock_openrouter(httpx.Response(202, json=evil))
    await provider.retrieve(await submit(provider))
    assert "another host" in caplog.text
    assert {request.url.host for request in sent} == {"openrouter.example"}


@pytest.mark.parametrize("address", ["/api/v1/videos/j", f"{BASE}/videos/j", None])
async def test_polling_addresses_of_both_forms_are_fine(address: str | None, caplog: pytest.LogCaptureFixture) -> None:
    provider, _ = mock_openrouter(httpx.Response(202, json={"id": "j", "status": "pending", "polling_url": address}))
    await submit(provider)
    assert caplog.text == ""


async def test_a_callback_of_the_emulator_is_verified(provider: OpenRouterProvider, emulator: Emulator) -> None:
    with WebhookReceiver() as receiver:
        generation_id = await submit(provider, webhook_url=receiver.url)
        (delivery,) = receiver.take(1)
    event = provider.parse_webhook(delivery.headers, delivery.body)
    assert (event.generation_id, event.event_type) == (generation_id, "video.generation.completed")
    again = provider.parse_webhook(delivery.headers | {"x-openrouter-idempotency-key": "other"}, delivery.body)
    assert again.event_id == event.event_id


def sign(body: bytes, *, at: float | None = None, secret: str = "s", form: str = "{t},") -> dict[str, str]:
    stamp = str(int(at if at is not None else time.time()))
    code = hmac.new(secret.encode(), form.format(t=stamp).encode() + body, hashlib.sha256).hexdigest()
    return {"X-OpenRouter-Signature": f"t={stamp},v1={code}"}


def test_callbacks_that_are_forged_stale_or_nonsense_are_refused() -> None:
    provider = OpenRouterProvider(api_key="k", webhook_secrets=("s",))
    good = json.dumps({"type": "video.generation.failed", "data": {"id": "j"}}).encode()
    assert provider.parse_webhook(sign(good), good).generation_id == "j"
    refused = [
        ({}, good),
        (sign(good, secret="other"), good),
        (sign(good), good + b" "),
        (sign(good, form=""), good),
        (sign(good, form="{t}."), good),
        (sign(good, at=time.time() - 301), good),
        # Ahead by more than the 300 s, however long it takes until it is read.
        (sign(good, at=time.time() + 330), good),
        ({"X-OpenRouter-Signature": "t=é,v1=é"}, good),
        (sign(b"[]"), b"[]"),
        (sign(b"{}"), b"{}"),
        (sign(b"<html>"), b"<html>"),
    ]
    for headers, body in refused:
        with pytest.raises(InvalidInput, match="webhook"):
            provider.parse_webhook(headers, body)
    with pytest.raises(InvalidInput, match="webhook"):
        OpenRouterProvider(api_key="k").parse_webhook(sign(good), good)


async def test_ids_cannot_leave_their_path() -> None:
    provider, sent = mock_openrouter(httpx.Response(200, json={}))
    for wrong in ("", "..", "a\nb"):
        with pytest.raises(InvalidInput):
            await provider.retrieve(wrong)
    assert sent == []
    for odd in ("../x", "a/b:c", "a?b#c%2e"):
        with pytest.raises(InvalidResponse):
            await provider.retrieve(odd)
    assert {request.url.raw_path.count(b"/") for request in sent} == {4}
    assert {request.url.query for request in sent} == {b""}


def test_the_environment_opens_it() -> None:
    with pytest.raises(InvalidInput, match="OPENROUTER_API_KEY"):
        open_provider({})
    open_openrouter = open_provider({"OPENROUTER_API_KEY": "sk-or-secret", "OPENROUTER_BASE_URL": f"{BASE}/"})
    assert open_openrouter.account.base_url == BASE
    assert "sk-or-secret" not in repr(open_openrouter.account)


async def test_the_content_address_is_tried_where_the_link_wants_another_key(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Behind a gateway the link that is told leads to OpenRouter itself, which does not know the gateway's key."""
    provider = open_openrouter(emulator)
    generation_id = await submit(provider)
    emulator.wait_until_idle()
    emulator.add_fault(operation="content", kind="denied")
    source = provider.download_source(await provider.retrieve(generation_id))
    assert "authorization" not in {name.lower() for name in source.headers}
    async with open_download_client() as client:
        got = await download(source, tmp_path / "v.mp4", client=client, policy=LinkPolicy(trusted_host="127.0.0.1"))
    assert probe(got.path).duration_seconds == pytest.approx(2, abs=0.1)
    assert emulator.usage()["requests"]["content"] == 2
    assert emulator.usage()["leaked_keys"] == 0
    await provider.aclose()


async def test_a_preview_among_the_links_is_not_taken_for_the_video(emulator: Emulator) -> None:
    provider = open_openrouter(emulator)
    generation_id = await submit(provider)
    emulator.wait_until_idle()
    emulator.add_fault(operation="retrieve", kind="preview_first")
    result = (await provider.retrieve(generation_id)).result
    assert result is not None
    assert ".mp4?" in result.video_url
    await provider.aclose()
