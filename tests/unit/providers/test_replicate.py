"""Replicate's dialect: official models and versions, deadlines, files that expire in an hour, a list to search."""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from prefect_video import HeldForReview, InvalidInput
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import NotFound, SubmitOutcomeUnknown, Unsupported
from prefect_video.generations import Status
from prefect_video.providers.replicate.provider import ReplicateProvider, open_provider
from tests.support.providers.replicate import FAST, HASH, SHOT, mock_replicate, open_replicate, submit
from tests.support.webhook_receiver import WebhookReceiver
from tests.unit.providers.known import known as recorded


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[ReplicateProvider]:
    provider = open_replicate(emulator)
    yield provider
    await provider.aclose()


async def test_a_prediction_from_submit_to_link(provider: ReplicateProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider)
    emulator.wait_until_idle()
    done = await provider.retrieve(generation_id)
    assert done.status is Status.COMPLETED
    assert done.prompt == SHOT.prompt
    assert done.cost_usd is None
    assert done.result is not None
    assert done.result.expires_at is not None
    left = (done.result.expires_at - datetime.now(UTC)).total_seconds()
    assert 3500 < left <= 3600
    assert provider.download_source(done).headers == {}


async def test_files_are_gone_after_their_time() -> None:
    with Emulator(EmulatorSettings(port=0, speed=500, link_ttl_seconds=0.2)) as emulator:
        provider = open_replicate(emulator)
        generation_id = await submit(provider)
        emulator.wait_until_idle()
        while (gone := await provider.retrieve(generation_id)).status is Status.COMPLETED:
            continue
        assert gone.status is Status.EXPIRED
        assert gone.result is None
        with pytest.raises(HeldForReview, match="removed the input"):
            await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})
        await provider.aclose()


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [
        ("google/veo-3.1", "/v1/models/google/veo-3.1/predictions", None),
        ("sora-2", "/v1/models/openai/sora-2/predictions", None),
        (f"me/video:{HASH}", "/v1/predictions", HASH),
        (HASH, "/v1/predictions", HASH),
    ],
)
async def test_official_models_are_requested_by_name_and_others_by_version(
    model: str, path: str, version: str | None
) -> None:
    provider, sent = mock_replicate(httpx.Response(201, json={"id": "p", "status": "starting"}))
    shot = SHOT.model_copy(update={"model": model, "duration": 4, "resolution": "720p"})
    provider.check(shot)
    await submit(provider, shot, "https://me.example/hook")
    body = json.loads(sent[0].content)
    assert sent[0].url.path == path
    assert body.get("version") == version
    assert body["webhook"] == "https://me.example/hook"
    assert body["webhook_events_filter"] == ["completed"]
    assert body["input"]["prompt"] == SHOT.prompt
    assert "cancel-after" not in sent[0].headers
    assert "prefer" not in sent[0].headers


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (
            {"model": "sora-2", "duration": 8, "resolution": "720p", "aspect_ratio": "9:16"},
            {"seconds": 8, "aspect_ratio": "portrait"},
        ),
        (
            {"model": "openai/sora-2-pro", "duration": 8, "resolution": "720p"},
            {"seconds": 8, "aspect_ratio": "landscape", "resolution": "standard"},
        ),
        (
            {"model": "wan-video/wan-2.2-t2v-fast", "duration": 6, "seed": 3},
            {"num_frames": 97, "frames_per_second": 16, "aspect_ratio": "16:9", "resolution": "480p", "seed": 3},
        ),
        (
            {
                "model": "prunaai/p-video",
                "duration": 5,
                "resolution": "1080p",
                "references": ("https://x.example/a.png",),
            },
            {"seconds": 5, "resolution": "1080p", "image": "https://x.example/a.png"},
        ),
        (
            {"guidance_scale": 3.5},
            {"duration": 2, "aspect_ratio": "16:9", "resolution": "480p", "guidance_scale": 3.5},
        ),
    ],
)
async def test_each_model_is_requested_in_its_own_words(given: dict[str, object], sent: dict[str, object]) -> None:
    provider, requests = mock_replicate(httpx.Response(201, json={"id": "p", "status": "starting"}))
    shot = SHOT.model_copy(update=given)
    provider.check(shot)
    await submit(provider, shot)
    assert json.loads(requests[0].content)["input"] == {"prompt": "a red balloon", **sent}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "sora-2", "duration": 4, "resolution": "1080p"}, "has no 1080p; it has 720p"),
        ({"model": "sora-2", "duration": 4, "resolution": "720p", "aspect_ratio": "1:1"}, "it has 16:9, 9:16"),
        ({"model": "openai/sora-2-pro", "duration": 4, "resolution": "1080p"}, "has no 1080p; it has 720p"),
        ({"model": "wan-video/wan-2.2-t2v-fast", "duration": 10}, "at most 6 s"),
    ],
)
def test_what_a_model_cannot_make_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        ReplicateProvider(api_key="k").check(SHOT.model_copy(update=given))
    assert message in str(caught.value)


@pytest.mark.parametrize("model", ["video", "a/b/c", "../b", "a/..", "a/b?x", "ABCDEF" * 10])
def test_names_that_are_no_models_are_refused(model: str) -> None:
    with pytest.raises(InvalidInput, match="none of Replicate's"):
        ReplicateProvider(api_key="k").check(SHOT.model_copy(update={"model": model}))


def test_the_price_is_unknown_unless_configured() -> None:
    assert ReplicateProvider(api_key="k").estimate(SHOT) is None
    assert ReplicateProvider(api_key="k", usd_per_second=Decimal("0.09")).estimate(SHOT) == Decimal("0.18")


async def test_policy_shows_as_a_failure_with_its_code(provider: ReplicateProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider, SHOT.model_copy(update={"prompt": "[policy] x"}))
    emulator.wait_until_idle()
    failed = await provider.retrieve(generation_id)
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert failed.fault.code == "E005"
    assert emulator.usage()["billed"] == 0


async def test_cancelling() -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:60")) as emulator:
        provider = open_replicate(emulator)
        generation_id = await submit(provider)
        assert (await provider.cancel(generation_id)).status is Status.CANCELLED
        assert (await provider.cancel(generation_id)).status is Status.CANCELLED
        with pytest.raises(NotFound):
            await provider.cancel("gen_unknown")
        await provider.aclose()


async def test_a_deadline_aborts_what_has_not_started() -> None:
    with Emulator(EmulatorSettings(port=0, speed=100, times="fixed:6000")) as emulator:
        provider = open_replicate(emulator, cancel_after_seconds=5)
        generation_id = await submit(provider)
        emulator.wait_until_idle()
        assert (await provider.retrieve(generation_id)).status is Status.CANCELLED
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {emulator.key}"}) as client:
            prediction = (await client.get(f"{emulator.url}/replicate/v1/predictions/{generation_id}")).json()
        assert prediction["status"] == "aborted"
        assert emulator.usage()["billed"] == 0
        await provider.aclose()


def test_a_deadline_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 5"):
        ReplicateProvider(api_key="k", cancel_after_seconds=4)


async def test_all_predictions_are_listed_over_pages(
    provider: ReplicateProvider, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_video.emulator.dialects.replicate.PAGE_SIZE", 2)
    made = [await submit(provider) for _ in range(5)]
    assert [generation.id async for generation in provider.list()] == made[::-1]
    assert emulator.usage()["requests"]["list"] == 3
    emulator.wait_until_idle()
    assert len([generation async for generation in provider.list(status=Status.COMPLETED)]) == 5
    assert [
        generation async for generation in provider.list(created_after=datetime.now(UTC) + timedelta(hours=1))
    ] == []


async def test_an_unanswered_submit_is_found_by_its_input(provider: ReplicateProvider, emulator: Emulator) -> None:
    since = datetime.now(UTC)
    other_model = await submit(provider, SHOT.model_copy(update={"model": "emulator/other"}))
    other_seed = await submit(provider, SHOT.model_copy(update={"seed": 2}))
    known = await submit(provider, SHOT.model_copy(update={"seed": 1}))
    emulator.add_fault(operation="submit", kind="reset_after", times=1)
    wanted = SHOT.model_copy(update={"seed": 1})
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider, wanted)
    found = await provider.find_unclaimed(wanted, idempotency_key="k", sent_at=since, known=recorded(known))
    assert found is not None
    assert found.id not in {other_model, other_seed, known}
    # The one of the same words and another seed may be ours, told otherwise; only when it is known, it is not.
    with pytest.raises(HeldForReview, match="tells other inputs"):
        await provider.find_unclaimed(wanted, idempotency_key="k", sent_at=since, known=recorded(known, found.id))
    # So may the one of another model: its owner may have been renamed.
    same_model = recorded(known, found.id, other_seed)
    with pytest.raises(HeldForReview, match=other_model):
        await provider.find_unclaimed(wanted, idempotency_key="k", sent_at=since, known=same_model)
    others = {known, found.id, other_seed, other_model}
    assert await provider.find_unclaimed(wanted, idempotency_key="k", sent_at=since, known=recorded(*others)) is None
    assert provider.capabilities.lookup == "similarity"


async def test_a_number_that_comes_back_in_another_spelling_is_the_same(
    provider: ReplicateProvider, emulator: Emulator
) -> None:
    shot, since = SHOT.model_copy(update={"guidance_scale": 7.0}), datetime.now(UTC)
    emulator.add_fault(operation="submit", kind="error_after")
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider, shot)
    assert await provider.find_unclaimed(shot, idempotency_key="k", sent_at=since, known={}) is not None


async def test_a_submit_that_never_arrived_is_proven_absent(provider: ReplicateProvider, emulator: Emulator) -> None:
    emulator.add_fault(operation="submit", kind="error_before", times=1)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider)
    assert await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={}) is None


async def test_webhooks_of_the_emulator_are_verified(emulator: Emulator) -> None:
    provider = ReplicateProvider(api_key=emulator.key, base_url=f"{emulator.url}/replicate/v1", settings=FAST)
    with WebhookReceiver() as receiver:
        generation_id = await submit(provider, webhook_url=receiver.url)
        (delivery,) = receiver.take(1)
    with pytest.raises(InvalidInput):
        provider.parse_webhook(delivery.headers, delivery.body)
    assert await provider.fetch_webhook_secret() == emulator.webhook_secret
    event = provider.parse_webhook(delivery.headers, delivery.body)
    assert (event.generation_id, event.event_type) == (generation_id, "prediction.succeeded")
    assert event.event_id == delivery.headers["webhook-id"]
    await provider.aclose()


def test_webhooks_that_are_forged_stale_or_nonsense_are_refused() -> None:
    secret = "whsec_c2VjcmV0"
    provider = ReplicateProvider(api_key="k", webhook_secrets=(secret,))

    def signed(body: bytes, at: float, secret: str = secret) -> dict[str, str]:
        stamp = str(int(at))
        signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(int(at), UTC), body.decode())
        return {"Webhook-Id": "msg_1", "Webhook-Timestamp": stamp, "Webhook-Signature": signature}

    good, now = json.dumps({"id": "p", "status": "failed"}).encode(), time.time()
    assert provider.parse_webhook(signed(good, now), good).event_type == "prediction.failed"
    for headers, body in [
        ({}, good),
        (signed(good, now, "whsec_b3RoZXI="), good),
        (signed(good, now), good + b" "),
        (signed(good, now - 301), good),
        (signed(b"[]", now), b"[]"),
        (signed(b"{}", now), b"{}"),
    ]:
        with pytest.raises(InvalidInput, match="webhook"):
            provider.parse_webhook(headers, body)


def test_the_environment_opens_it() -> None:
    with pytest.raises(InvalidInput, match="REPLICATE_API_TOKEN"):
        open_provider({})
    assert open_provider({"REPLICATE_API_TOKEN": "r8"}).account.base_url == "https://api.replicate.com/v1"
    own = open_provider({"REPLICATE_API_TOKEN": "r8", "REPLICATE_BASE_URL": "http://127.0.0.1:1/replicate/"})
    assert own.account.base_url == "http://127.0.0.1:1/replicate/v1"


async def test_a_preview_in_the_output_is_not_taken_for_the_video(
    provider: ReplicateProvider, emulator: Emulator
) -> None:
    generation_id = await submit(provider)
    emulator.wait_until_idle()
    emulator.add_fault(operation="retrieve", kind="preview_first")
    result = (await provider.retrieve(generation_id)).result
    assert result is not None
    assert ".mp4?" in result.video_url
