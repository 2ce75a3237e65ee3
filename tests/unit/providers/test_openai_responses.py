"""Jobs and errors in every form of every profile."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.downloads.transfer import download, open_download_client
from prefect_video.downloads.url_safety import LinkPolicy
from prefect_video.emulator import Emulator
from prefect_video.errors import (
    AuthenticationFailed,
    ContentPolicyError,
    NotFound,
    QuotaExhausted,
    RequestRejected,
    SubmitOutcomeUnknown,
    UnsafeUrl,
)
from prefect_video.generations import Status
from tests.support.providers.openai import SHOT, Open, Server, job, open_profile, submit

__all__ = ["open_profile"]


@pytest.mark.parametrize(
    ("profile", "code", "message"),
    [
        ("generic", "generation_failed", "gave up"),
        ("vllm_omni", "500", "gave up"),
        ("sglang", "error", "gave up"),
        ("trtllm", "error", "gave up"),
        ("litellm", "generation_failed", "gave up"),
    ],
)
async def test_a_failed_job_in_every_shape(
    open_profile: Open, emulator: Emulator, profile: str, code: str, message: str
) -> None:
    provider = open_profile(profile)
    accepted = await submit(provider, SHOT.model_copy(update={"prompt": "[fail] a cat"}))
    emulator.wait_until_idle()
    before = emulator.usage()["polled"]
    failed = await provider.retrieve(accepted.id)
    assert (failed.id, failed.status) == (accepted.id, Status.FAILED)
    assert failed.fault is not None
    assert failed.fault.code == code
    assert message in failed.fault.message
    assert emulator.usage()["polled"] == before + 1, "a failed job is no trouble of the server: not asked twice"


async def test_moderation_by_a_server_that_answers_400_with_the_job(open_profile: Open, emulator: Emulator) -> None:
    provider = open_profile("vllm_omni")
    accepted = await submit(provider, SHOT.model_copy(update={"prompt": "[policy] a cat"}))
    emulator.wait_until_idle()
    failed = await provider.retrieve(accepted.id)
    assert failed.status is Status.FAILED
    assert failed.fault is not None
    assert failed.fault.code == "400"


async def test_only_a_job_that_is_over_outweighs_the_status_of_an_answer() -> None:
    provider = Server(job(http=404, status="failed", error={"code": 404, "message": "no such LoRA"})).provider()
    assert (await provider.retrieve("video_1")).status is Status.FAILED
    for answer in (
        job(http=404, status="in_progress"),
        job(http=404, status="completed"),
        httpx.Response(404, json={"object": "video"}),
    ):
        with pytest.raises(NotFound):
            await Server(answer).provider().retrieve("video_1")


async def test_a_submit_that_is_answered_by_a_failed_job_was_accepted() -> None:
    failed = await submit(Server(job(http=500, status="failed", error="out of memory")).provider("vllm_omni"))
    assert (failed.id, failed.status) == ("video_1", Status.FAILED)
    with pytest.raises(SubmitOutcomeUnknown):
        await submit(Server(job(http=500)).provider("vllm_omni"))
    with pytest.raises(SubmitOutcomeUnknown, match="names no generation"):
        await submit(Server(httpx.Response(202, json={"status": "queued"})).provider("trtllm"))


@pytest.mark.parametrize(
    ("string", "status"),
    [
        ("queued", Status.QUEUED),
        ("in_progress", Status.PROCESSING),
        ("processing", Status.PROCESSING),
        ("generating", Status.PROCESSING),
        ("postprocessing", Status.PROCESSING),
        ("COMPLETED", Status.COMPLETED),
        ("deleted", Status.CANCELLED),
        ("canceled", Status.CANCELLED),
        ("expired", Status.EXPIRED),
        ("dreaming", Status.PROCESSING),
    ],
)
async def test_statuses_of_all_servers(string: str, status: Status) -> None:
    assert (await Server(job(status=string)).provider().retrieve("video_1")).status is status


async def test_a_job_may_be_reported_loosely() -> None:
    loose = job(status="completed", seconds=4, progress=99.5, created_at=1.5e9, size="", error=None, expires_at=None)
    read = await Server(loose).provider().retrieve("video_1")
    assert read.progress == 0.995
    assert read.parameters == {"seconds": 4.0}
    assert read.created_at == datetime.fromtimestamp(1.5e9, UTC)
    assert read.result is not None
    assert (read.result.duration_seconds, read.result.width) == (4.0, None)
    hinted = job()
    hinted.headers["openai-poll-after-ms"] = "2500"
    assert (await Server(hinted).provider().retrieve("video_1")).retry_after == 2.5


async def test_sglangs_own_link_is_fetched_without_the_key(open_profile: Open, emulator: Emulator) -> None:
    provider = open_profile("sglang", "sglang_cloud")
    accepted = await submit(provider)
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    source = provider.download_source(done)
    assert source.url.startswith(emulator.cdn)
    assert source.headers == {}
    headers = {"Authorization": f"Bearer {emulator.key}"}
    async with httpx.AsyncClient() as client:
        content = await client.get(f"{emulator.url}/profiles/sglang_cloud/v1/videos/{done.id}/content", headers=headers)
    assert content.status_code == 400
    assert emulator.cdn in content.json()["detail"]


async def test_sglangs_link_is_found_where_only_the_refusal_tells_it(
    open_profile: Open, emulator: Emulator, tmp_path: Path
) -> None:
    provider = open_profile("sglang", "sglang_cloud")
    accepted = await submit(provider)
    emulator.wait_until_idle()
    done = await provider.retrieve(accepted.id)
    assert done.result is not None
    content = f"{emulator.url}/profiles/sglang_cloud/v1/videos/{done.id}/content"
    untold = done.model_copy(update={"result": done.result.model_copy(update={"video_url": content})})
    async with open_download_client(trust_env=False) as client:
        policy = LinkPolicy(trusted_host="127.0.0.1")
        file = await download(provider.download_source(untold), tmp_path / "video.mp4", client=client, policy=policy)
        assert file.bytes > 1000
        strict = LinkPolicy(trusted_host="127.0.0.1", max_redirects=0)
        with pytest.raises(UnsafeUrl, match="redirects"):
            await download(provider.download_source(untold), tmp_path / "other.mp4", client=client, policy=strict)
    assert emulator.usage()["leaked_keys"] == 0


async def test_only_where_a_profile_says_so_is_a_servers_link_trusted() -> None:
    fields = {"status": "completed", "url": "https://elsewhere.example/a.mp4"}
    trusted = Server(job(**fields)).provider("sglang")
    assert trusted.download_source(await trusted.retrieve("video_1")).url == "https://elsewhere.example/a.mp4"
    wary = Server(job(**fields)).provider("generic")
    source = wary.download_source(await wary.retrieve("video_1"))
    assert source.url == "https://api.example/v1/videos/video_1/content"
    assert source.headers == {"Authorization": "Bearer sk-1"}
    assert "sk-1" not in repr(source)


@pytest.mark.parametrize(
    ("profile", "status", "answer", "kind"),
    [
        ("generic", 429, {"error": {"message": "no", "code": "insufficient_quota"}}, QuotaExhausted),
        ("generic", 400, {"error": {"message": "no", "type": "invalid_request_error"}}, RequestRejected),
        ("generic", 400, {"error": {"message": "no", "code": "sentinel_block"}}, ContentPolicyError),
        ("generic", 400, {"error": {"message": "no", "type": "of_a_gateway"}}, SubmitOutcomeUnknown),
        (
            "generic",
            403,
            {"error": {"message": "no", "code": 403, "status": "PERMISSION_DENIED"}},
            SubmitOutcomeUnknown,
        ),
        ("generic", 400, {"detail": "no"}, SubmitOutcomeUnknown),
        ("generic", 400, {"error": "no"}, SubmitOutcomeUnknown),
        ("litellm", 400, {"error": {"message": "no", "type": "budget_exceeded", "code": "400"}}, QuotaExhausted),
        ("litellm", 401, {"error": {"message": "no", "type": "auth_error", "code": "401"}}, AuthenticationFailed),
        ("sglang", 400, {"detail": "no"}, RequestRejected),
        ("sglang", 422, {"detail": [{"loc": ["body", "prompt"], "msg": "no"}]}, RequestRejected),
        ("sglang", 401, {"error": "Unauthorized"}, AuthenticationFailed),
        ("sglang", 403, {"detail": "no"}, SubmitOutcomeUnknown),
        ("sglang", 400, {"detail": "no", "title": "of a gateway"}, SubmitOutcomeUnknown),
        ("vllm_omni", 422, {"detail": [{"loc": ["body", "prompt"], "msg": "no"}]}, RequestRejected),
        ("vllm_omni", 400, {"error": {"message": "no", "type": "BadRequestError", "code": 400}}, RequestRejected),
        ("vllm_omni", 400, {"error": {"message": "no", "type": "BadRequestError", "code": 500}}, SubmitOutcomeUnknown),
        ("trtllm", 400, {"object": "error", "message": "no", "code": 400}, RequestRejected),
        ("trtllm", 403, {"object": "error", "message": "no", "code": 403}, SubmitOutcomeUnknown),
    ],
)
async def test_each_server_refuses_in_its_own_words_only(
    profile: str, status: int, answer: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        await submit(Server(httpx.Response(status, json=answer)).provider(profile))
    assert type(raised.value) is kind
    assert kind is AuthenticationFailed or "no" in str(raised.value)
