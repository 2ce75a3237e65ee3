"""The job API over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput, QuotaExhausted
from prefect_video.pipeline.steps import ClaimOptions, build_project_intents, claim_shots
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.service import ServiceSettings
from prefect_video.service.jobs.service import GenerationRequest
from tests.support.service_fixtures import TOKEN, Service, open_session, serving
from tests.unit.service.test_webhooks import project

ASKED = {"prompt": "a cat", "duration": 1, "resolution": "480p", "project_id": "film", "user_id": "user-1"}


async def generate(service: Service, **changes: Any) -> httpx.Response:
    key = changes.pop("key", None)
    headers = {"Idempotency-Key": key} if key else {}
    return await service.client.post("/generate", json={**ASKED, **changes}, headers=headers)


async def until(service: Service, job_id: str, *statuses: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            job: dict[str, Any] = (await service.client.get(f"/jobs/{job_id}")).json()
            if job["status"] in statuses:
                return job
            await asyncio.sleep(0.02)


async def test_a_request_becomes_a_stored_video(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_address = await free_port()
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{with_address.getsockname()[1]}")
    async with serving(with_address, collect=True) as service:
        answer = await generate(service)
        assert answer.status_code == 202
        job = answer.json()
        assert job["status"] == "queued"
        assert job["estimated_time"] > 0
        assert answer.headers["location"] == f"/jobs/{job['job_id']}"
        done = await until(service, job["job_id"], "completed", "failed")
        assert done["status"] == "completed", done
        assert Path(done["uri"].removeprefix("file://")).exists()
        assert done["cost_usd"] == 0.3
        again = await generate(service)
        assert (again.status_code, again.json()["job_id"]) == (200, job["job_id"])
    assert provider.usage()["billed"] == 1
    assert provider.usage()["polled"] == 1


async def test_an_empty_mount_point_is_no_reason_to_pay(environment: Path, provider: Emulator) -> None:
    async with serving(collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service)).json()
        done = await until(service, job["job_id"], "completed", "failed")
        store = Path(done["uri"].removeprefix("file://")).parents[1]
        store.rename(store.with_name("volume"))
        store.mkdir()
        answer = await generate(service)
        assert answer.status_code == 503
        assert "has no marker" in answer.text
    assert provider.usage()["billed"] == 1


async def test_the_same_request_at_once_is_paid_once(environment: Path, provider: Emulator) -> None:
    async with serving() as service:
        answers = await asyncio.gather(*(generate(service) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {202}
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        other = (await generate(service, take=2)).json()["job_id"]
        await until(service, job_id, "processing")
        await until(service, other, "processing")
    assert provider.usage()["accepted"] == 2


async def test_a_key_is_never_paid_again_not_even_after_a_failure(environment: Path, provider: Emulator) -> None:
    async with serving(await free_port()) as service:
        job = (await generate(service, prompt="[policy] no", key="r-1")).json()
        refused = await until(service, job["job_id"], "failed")
        assert "policy" in refused["error"]
        first = (await generate(service, prompt="[fail] cat", key="r-2")).json()
        await until(service, first["job_id"], "processing")
        provider.wait_until_idle()
        async with await open_session() as session:
            job = await session.ledger.jobs.get(first["job_id"])
            generation = await session.provider.retrieve(job.generation_id or "")
            await session.ledger.jobs.record_ended(job.id, "failed", generation.fault.message, actual_usd=None)
        again = await generate(service, prompt="[fail] cat", key="r-2")
        assert (again.status_code, again.json()["job_id"], again.json()["status"]) == (200, first["job_id"], "failed")
    assert provider.usage()["accepted"] == 1


async def test_nobody_gets_in_without_the_token(environment: Path, provider: Emulator) -> None:
    async with serving() as service:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            async with httpx.AsyncClient(base_url=service.url, headers=headers) as stranger:
                assert (await stranger.post("/generate", json=ASKED)).status_code == 401
                assert (await stranger.get("/jobs/any")).status_code == 401
    async with serving(api_token=None) as service:
        assert (await generate(service)).status_code == 404
    assert provider.usage()["submitted"] == 0
    with pytest.raises(InvalidInput, match="fewer than 16") as caught:
        ServiceSettings.from_environment(api_token="short")
    assert "short'" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"duration": 0}, 422, "duration"),
        ({"prompt": " "}, 422, "blank"),
        ({"webhook": "x"}, 422, "webhook"),
        ({"provider": "fal"}, 422, "no account"),
        ({"project_id": "../x"}, 422, "project"),
        ({"take": True}, 422, "take"),
        ({"duration": True}, 422, "duration"),
        ({"prompt": None}, 422, "prompt"),
    ],
)
async def test_what_cannot_be_made_is_refused(
    environment: Path, provider: Emulator, changes: dict[str, Any], status: int, said: str
) -> None:
    async with serving() as service:
        answer = await generate(service, **changes)
        assert answer.status_code == status
        assert said in answer.text
        assert (await service.client.get("/jobs/nothing")).status_code == 404
    assert provider.usage()["submitted"] == 0


async def test_null_means_unset(environment: Path, provider: Emulator) -> None:
    nulls = dict.fromkeys(set(GenerationRequest.model_fields) - {"prompt", "duration", "resolution"})
    async with serving() as service:
        job = (await generate(service, project_id=None, **nulls)).json()
        assert (job["project"], job["take"]) == ("shots", 1)
        await until(service, job["job_id"], "processing")
    assert provider.usage()["accepted"] == 1


async def test_what_was_accepted_and_not_sent_is_sent_by_the_next_start(environment: Path, provider: Emulator) -> None:
    async with await open_session() as dying:
        job_requests = await build_project_intents(dying, project("one"), ClaimOptions(flow_run_id="request-r-1"))
        (claim,) = await claim_shots(dying, job_requests, budgets=(), partial=False)
        assert claim.job is not None
    async with serving() as service:
        await until(service, claim.job.id, "processing")
    assert provider.usage()["accepted"] == 1


async def test_the_token_is_asked_for_before_the_body_is_read(environment: Path, provider: Emulator) -> None:
    async def without_length() -> Any:
        for _ in range(100):
            yield b" " * 1_000

    async with serving() as service:
        async with httpx.AsyncClient(base_url=service.url) as stranger:
            assert (await stranger.post("/generate", content=b"x" * 100_000)).status_code == 401
        assert (await service.client.post("/generate", content=b" " * 100_000)).status_code == 413
        assert (await service.client.post("/generate", content=without_length())).status_code == 413


@pytest.mark.parametrize("told", [True, False], ids=["lost", "none asked for"])
async def test_a_job_is_done_without_any_webhook(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    provider.add_fault(operation="webhook", kind="drop", times=None)
    port = await free_port()
    if told:
        monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    async with serving(port, collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service)).json()
        assert (await until(service, job["job_id"], "completed", "failed"))["status"] == "completed"
    assert provider.usage()["billed"] == 1


async def test_a_used_up_quota_is_told_to_whoever_asks(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def refuse(*_: object, **__: object) -> None:
        nonlocal asked
        asked += 1
        raise QuotaExhausted("no credits are left", provider="sora")

    monkeypatch.setattr(SoraProvider, "submit", refuse)
    async with serving() as service:
        for prompt in ("one", "two"):
            job = (await generate(service, prompt=prompt)).json()
            assert "no credits" in (await until(service, job["job_id"], "failed"))["error"]
    assert asked == 1


async def test_a_request_has_a_priority(environment: Path, provider: Emulator) -> None:
    async with serving() as service, await open_session() as session:
        job = (await generate(service, priority="high")).json()
        assert (await session.ledger.jobs.get(job["job_id"])).priority == 1
        assert (await generate(service, priority="highest")).status_code == 422


async def free_port() -> Any:
    import socket

    return socket.create_server(("127.0.0.1", 0))
