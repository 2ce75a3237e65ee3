"""fal's dialect: a queue whose addresses are used as returned, results that may be errors, Ed25519 webhooks."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import parse_qs

import httpx
import pytest

from prefect_video import HeldForReview, InvalidInput
from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.errors import NotFound, SubmitOutcomeUnknown, Unsupported
from prefect_video.generations import Status
from prefect_video.providers.fal.provider import FalProvider, open_provider
from tests.support.providers.fal import JOB, QUEUE, SHOT, mock_fal, open_fal, submit


@pytest.fixture
async def provider(emulator: Emulator) -> AsyncIterator[FalProvider]:
    provider = open_fal(emulator)
    yield provider
    await provider.aclose()


async def test_a_job_is_known_by_its_path_on_the_queue(provider: FalProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider)
    assert generation_id.startswith("emulator/video/requests/")
    emulator.wait_until_idle()
    done = await provider.retrieve(generation_id)
    assert done.status is Status.COMPLETED
    assert done.result is not None
    assert done.result.file_size
    assert provider.download_source(done).headers == {}
    assert done.cost_usd is None


async def test_a_model_that_gave_up_has_failed(provider: FalProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider, SHOT.model_copy(update={"prompt": "[fail] x"}))
    emulator.wait_until_idle()
    failed = await provider.retrieve(generation_id)
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert failed.fault.code == "internal_error"


async def test_policy_shows_in_the_result(provider: FalProvider, emulator: Emulator) -> None:
    generation_id = await submit(provider, SHOT.model_copy(update={"prompt": "[policy] x"}))
    emulator.wait_until_idle()
    failed = await provider.retrieve(generation_id)
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert failed.fault.code == "content_policy_violation"
    assert "body.prompt" in failed.fault.message
    assert emulator.usage()["billed"] == 0


async def test_only_what_has_not_started_is_cancelled() -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:60")) as emulator:
        provider = open_fal(emulator)
        waiting = await submit(provider)
        assert (await provider.cancel(waiting)).status is Status.CANCELLED
        assert (await provider.cancel(waiting)).status is Status.CANCELLED
        with pytest.raises(NotFound):
            await provider.cancel("emulator/video/requests/gen_unknown")
        await provider.aclose()
    with Emulator(EmulatorSettings(port=0, times="fixed:2", render="plate")) as emulator:
        provider = open_fal(emulator)
        started = await submit(provider)
        while (await provider.retrieve(started)).status is Status.QUEUED:
            continue
        assert (await provider.cancel(started)).status is Status.PROCESSING
        emulator.wait_until_idle()
        assert (await provider.cancel(started)).status is Status.COMPLETED
        await provider.aclose()


async def test_a_cancelled_job_that_the_queue_has_forgotten_is_cancelled() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(202, json={"status": "CANCELLATION_REQUESTED"})
        return httpx.Response(404, json={"detail": "Request not found"})

    provider, _ = mock_fal(answer)
    assert (await provider.cancel(JOB)).status is Status.CANCELLED


async def test_what_is_sent() -> None:
    provider, sent = mock_fal(
        lambda _: httpx.Response(200, json={"request_id": "r1", "status_url": f"{QUEUE}/{JOB}/status"})
    )
    assert await submit(provider, SHOT, "https://me.example/hook?a=b&c") == JOB
    (request,) = sent
    assert request.url.path == "/emulator/video/text-to-video"
    assert parse_qs(request.url.query.decode()) == {"fal_webhook": ["https://me.example/hook?a=b&c"]}
    assert request.headers["authorization"] == "Key k"
    assert request.headers["x-fal-no-retry"] == "1"
    assert json.loads(request.content) == {
        "prompt": "a red balloon",
        "duration": 2,
        "aspect_ratio": "16:9",
        "resolution": "480p",
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (
            {"model": "sora-2", "duration": 4, "resolution": "720p"},
            {"duration": 4, "resolution": "720p", "aspect_ratio": "16:9"},
        ),
        (
            {"model": "fal-ai/veo3/fast", "duration": 8, "resolution": "720p", "negative_prompt": "people"},
            {"duration": "8s", "resolution": "720p", "aspect_ratio": "16:9", "negative_prompt": "people"},
        ),
        (
            {"model": "fal-ai/bytedance/seedance/v1/pro/text-to-video", "duration": 5, "seed": 0},
            {"duration": "5", "resolution": "480p", "aspect_ratio": "16:9", "seed": 0},
        ),
        (
            {"model": "fal-ai/wan/v2.2-a14b/text-to-video", "duration": 5, "num_inference_steps": 20},
            {
                "num_frames": 81,
                "frames_per_second": 16,
                "resolution": "480p",
                "aspect_ratio": "16:9",
                "num_inference_steps": 20,
            },
        ),
        (
            {"model": "fal-ai/wan/v2.2-a14b/text-to-video", "num_frames": 49},
            {"num_frames": 49, "frames_per_second": 24, "resolution": "480p", "aspect_ratio": "16:9"},
        ),
        (
            {"num_frames": 49, "fps": 12},
            {"num_frames": 49, "frames_per_second": 12, "resolution": "480p", "aspect_ratio": "16:9"},
        ),
    ],
)
async def test_each_model_is_requested_in_its_own_words(given: dict[str, object], sent: dict[str, object]) -> None:
    provider, requests = mock_fal(lambda _: httpx.Response(200, json={"request_id": "r1"}))
    shot = SHOT.model_copy(update=given)
    provider.check(shot)
    await submit(provider, shot)
    assert json.loads(requests[0].content) == {"prompt": "a red balloon", **sent}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "sora-2"}, "has no 480p; it has 720p"),
        ({"model": "sora-2", "resolution": "720p", "duration": 6}, "makes no 6 s; the nearest is 8 s"),
        ({"model": "sora-2", "resolution": "720p", "duration": 4, "seed": 1}, "seed: fal model"),
        ({"model": "fal-ai/veo3", "resolution": "720p", "duration": 8, "aspect_ratio": "1:1"}, "has no 1:1"),
        ({"model": "fal-ai/wan/v2.2-a14b/text-to-video", "duration": 11}, "at most 10 s at 480p"),
        ({"model": "fal-ai/wan/v2.2-a14b/text-to-video", "references": ("a.png",)}, "references: fal model"),
    ],
)
def test_what_a_model_cannot_make_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        FalProvider(api_key="k").check(SHOT.model_copy(update=given))
    assert message in str(caught.value)


@pytest.mark.parametrize("model", ["video", "a/../b", "a//b", "/a/b", "a/b?x", "a b/c"])
def test_names_that_are_no_models_are_refused(model: str) -> None:
    with pytest.raises(InvalidInput, match="not a model of fal"):
        FalProvider(api_key="k").check(SHOT.model_copy(update={"model": model}))


def test_prices_are_unknown_unless_listed() -> None:
    provider = FalProvider(api_key="k", models={"cheap": "bytedance/seedance-2.0/text-to-video"})
    assert provider.estimate(SHOT) is None
    assert provider.estimate(SHOT.model_copy(update={"model": "cheap"})) == Decimal("0.26")
    assert FalProvider(api_key="k", usd_per_second=Decimal("0.5")).estimate(SHOT) == 1


async def test_an_unanswered_submit_needs_a_human(provider: FalProvider, emulator: Emulator) -> None:
    emulator.add_fault(operation="submit", kind="reset_after", times=1)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(provider)
    assert provider.capabilities.lookup == "none"
    with pytest.raises(HeldForReview, match="does not list"):
        await provider.find_unclaimed(SHOT, idempotency_key="k", sent_at=datetime.now(UTC), known={})
    assert emulator.usage()["accepted"] == 1


async def test_ids_cannot_leave_their_path() -> None:
    provider, sent = mock_fal(lambda _: httpx.Response(200, json={}))
    for wrong in ("r1", "a/requests/r1", "../a/b/requests/r", "a/b/requests/..", "a/b/requests/r?x", ""):
        with pytest.raises(InvalidInput):
            await provider.retrieve(wrong)
    assert sent == []


def test_the_environment_opens_it() -> None:
    with pytest.raises(InvalidInput, match="FAL_KEY"):
        open_provider({})
    assert open_provider({"FAL_KEY": "a:b"}).account.base_url == "https://queue.fal.run"
