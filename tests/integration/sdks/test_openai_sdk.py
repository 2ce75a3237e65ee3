"""OpenAI's own SDK, unmodified, against the emulator; and what it makes of servers that deviate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from prefect_video.downloads.media import probe
from prefect_video.emulator import Emulator
from prefect_video.providers.openai.provider import OpenAIProvider
from prefect_video.shots import Shot
from tests.support.webhook_receiver import WebhookReceiver

CREATE = {"prompt": "a cat on a roof", "model": "sora-2", "seconds": "4", "size": "720x1280"}


@pytest.fixture
def sdk(emulator: Emulator) -> Iterator[OpenAI]:
    secret = emulator.webhook_secret
    with OpenAI(api_key=emulator.key, base_url=f"{emulator.url}/v1", webhook_secret=secret) as client:
        yield client


def test_create_and_poll_then_download(sdk: OpenAI, emulator: Emulator, tmp_path: Path) -> None:
    video = sdk.videos.create_and_poll(**CREATE, poll_interval_ms=20)  # type: ignore[arg-type]
    assert (video.status, video.seconds, video.size, video.progress) == ("completed", "4", "720x1280", 100)
    assert video.expires_at is not None
    path = tmp_path / "video.mp4"
    sdk.videos.download_content(video.id).write_to_file(path)
    assert probe(path).duration_seconds == pytest.approx(4, abs=0.1)
    with sdk.videos.with_streaming_response.download_content(video.id) as streamed:
        assert streamed.read()[4:8] == b"ftyp"
    assert emulator.usage()["accepted"] == 1


def test_list_over_pages_and_delete(sdk: OpenAI, emulator: Emulator) -> None:
    made = [sdk.videos.create(**CREATE).id for _ in range(5)]  # type: ignore[arg-type]
    assert [video.id for video in sdk.videos.list(limit=2)] == made[::-1]
    assert [video.id for video in sdk.videos.list(limit=3, order="asc")] == made
    emulator.wait_until_idle()
    deleted = sdk.videos.delete(made[0])
    assert (deleted.id, deleted.deleted, deleted.object) == (made[0], True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve(made[0])


def test_work_in_progress_is_not_deleted(idle: Emulator) -> None:
    with OpenAI(api_key=idle.key, base_url=f"{idle.url}/v1", max_retries=0) as sdk:
        made = sdk.videos.create(**CREATE)  # type: ignore[arg-type]
        with pytest.raises(openai.ConflictError, match="still being made"):
            sdk.videos.delete(made.id)


def test_errors_are_the_sdks(sdk: OpenAI, emulator: Emulator) -> None:
    once = sdk.with_options(max_retries=0)
    emulator.add_fault(operation="submit", kind="rate_limited", retry_after=3)
    with pytest.raises(openai.RateLimitError) as limited:
        once.videos.create(**CREATE)  # type: ignore[arg-type]
    assert limited.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.AuthenticationError):
        once.with_options(api_key="sk-wrong").videos.list()
    with pytest.raises(openai.BadRequestError, match="seconds"):
        once.videos.create(**{**CREATE, "seconds": "0"})  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'seed'"):
        once.videos.create(**CREATE, extra_body={"seed": 1})  # type: ignore[arg-type]
    blocked = once.videos.create_and_poll(**{**CREATE, "prompt": "[policy] x"}, poll_interval_ms=20)  # type: ignore[arg-type]
    assert blocked.status == "failed"
    assert blocked.error is not None
    assert blocked.error.code == "moderation_blocked"


def test_the_sdk_pays_again_where_we_do_not(sdk: OpenAI, emulator: Emulator) -> None:
    emulator.add_fault(operation="submit", kind="error_after", times=2)
    sdk.videos.create(**CREATE)  # type: ignore[arg-type]
    assert emulator.usage()["accepted"] == 3


async def test_webhooks_unwrap(sdk: OpenAI, emulator: Emulator, receiver: WebhookReceiver) -> None:
    video = sdk.videos.create(**CREATE)  # type: ignore[arg-type]
    delivery = (await asyncio.to_thread(receiver.take, 1))[0]
    while video.id.encode() not in delivery.body:
        delivery = (await asyncio.to_thread(receiver.take, 1))[0]
    event = sdk.webhooks.unwrap(delivery.body.decode(), delivery.headers)
    assert (event.type, event.data.id) == ("video.completed", video.id)  # type: ignore[union-attr,comparison-overlap]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        sdk.webhooks.unwrap(delivery.body.decode() + " ", delivery.headers)


@pytest.mark.parametrize("profile", ["vllm_omni", "sglang", "trtllm"])
def test_engines_by_the_sdk(emulator: Emulator, profile: str) -> None:
    with OpenAI(api_key=emulator.key, base_url=f"{emulator.url}/profiles/{profile}/v1", max_retries=0) as engine:
        reference = {"input_reference": ("roof.png", b"png", "image/png")} if profile == "sglang" else {}
        extras = {"num_frames": 33, "fps": 16}
        body = {"extra_body": extras} if profile == "sglang" else extras
        video = engine.videos.create(
            prompt="a cat",
            size="848x480",
            extra_body=body,
            **reference,  # type: ignore[arg-type]
        )
        emulator.wait_until_idle()
        done = engine.videos.retrieve(video.id)
        assert done.status == "completed"
        assert engine.videos.download_content(video.id).read()[4:8] == b"ftyp"
        assert [item.id for item in engine.videos.list()] == [video.id]
        failing = engine.videos.create(prompt="[fail] a cat", **reference)  # type: ignore[arg-type]
        emulator.wait_until_idle()
        if profile == "vllm_omni":
            with pytest.raises(openai.InternalServerError):
                engine.videos.retrieve(failing.id)
        else:
            assert engine.videos.retrieve(failing.id).status == "failed"


async def test_our_generation_is_the_sdks(sdk: OpenAI, emulator: Emulator) -> None:
    provider = OpenAIProvider(api_key=emulator.key, base_url=f"{emulator.url}/v1/")
    began = time.time()
    ours = await provider.submit(
        Shot(id="a", prompt="a cat", duration=4, resolution="720p"), idempotency_key="k", project="film"
    )
    theirs = sdk.videos.retrieve(ours.id)
    assert (theirs.prompt, theirs.seconds, theirs.size, theirs.model) == ("a cat", "4", "1280x720", "sora-2")
    assert theirs.created_at == pytest.approx(began, abs=5)
    emulator.wait_until_idle()
    await provider.delete(ours.id)
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve(ours.id)
    await provider.aclose()
