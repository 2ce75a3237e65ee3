"""The job API over HTTP."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from prefect_video.emulator import Emulator
from prefect_video.errors import InvalidInput, QuotaExhausted
from prefect_video.gallery import load_manifest
from prefect_video.pipeline.steps import ClaimOptions, build_project_job_requests, claim_shots
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.service import ServiceSettings
from prefect_video.service.jobs.bodies import GenerateBody
from prefect_video.storage import StoredFile
from prefect_video.storage.local import LocalStore
from tests.support.service_fixtures import TOKEN, Service, open_environment_session, run_service
from tests.unit.service.test_webhooks import project

REQUEST = {"prompt": "a cat", "duration": 1, "resolution": "480p", "project_id": "film", "user_id": "user-1"}


async def generate(service: Service, **changes: Any) -> httpx.Response:
    """Send `POST /generate`; `key` is its idempotency key."""
    key = changes.pop("key", None)
    headers = {"Idempotency-Key": key} if key else {}
    return await service.client.post("/generate", json={**REQUEST, **changes}, headers=headers)


async def wait_for_status(service: Service, job_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a job has one of the statuses, and return it as the API shows it."""
    async with asyncio.timeout(60):
        while True:
            job: dict[str, Any] = (await service.client.get(f"/jobs/{job_id}")).json()
            if job["status"] in statuses:
                return job
            await asyncio.sleep(0.02)


async def test_a_request_becomes_a_stored_video(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await free_port()
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    async with run_service(port, collect=True) as service:
        answer = await generate(service)
        assert answer.status_code == 202
        job = answer.json()
        assert job["status"] == "queued"
        assert job["estimated_time"] > 0
        assert job["stored_at"] is None
        assert answer.headers["location"] == f"/jobs/{job['job_id']}"
        done = await wait_for_status(service, job["job_id"], "completed", "failed")
        assert done["status"] == "completed", done
        assert Path(done["uri"].removeprefix("file://")).exists()
        assert done["cost_usd"] == 0.3
        steps = ("created_at", "submitted_at", "completed_at", "stored_at", "updated_at")
        times = [datetime.fromisoformat(done[step]) for step in steps]
        assert times == sorted(times)
        assert {time.utcoffset() for time in times} == {timedelta(0)}
        again = await generate(service)
        assert (again.status_code, again.json()["job_id"]) == (200, job["job_id"])
    assert provider.usage()["billed"] == 1
    assert provider.usage()["polled"] == 1


async def test_a_job_that_the_ledger_in_trouble_does_not_release_is_sent_by_a_later_sweep(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that owns it lives on, so that no other one sends it."""
    monkeypatch.setenv("PREFECT_VIDEO_LEASE_SECONDS", "0.3")
    failed: list[str] = []

    def fail(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("UPDATE jobs") and not any("SET owner=" in earlier for earlier in failed):
            failed.append(sql)
            raise sqlite3.OperationalError("disk I/O error")

    async with run_service(collect=True, sweep_seconds=0.1) as service:
        engine = service.app.state.sessions.sessions[0].ledger._database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", fail)
        job_id = (await generate(service)).json()["job_id"]
        assert (await wait_for_status(service, job_id, "completed", "failed"))["status"] == "completed"
    assert len(failed) > 1, "its slot, and at last its release"
    assert (provider.usage()["accepted"], provider.usage()["billed"]) == (1, 1)


async def wait_for_page(service: Service) -> None:
    """Wait for the page of the project whose video the service has stored by itself."""
    store = service.app.state.sessions.sessions[0].store
    async with asyncio.timeout(60):
        while not (manifest := await load_manifest(store, "film")):
            await asyncio.sleep(0.02)
    assert [take.status for take in manifest.takes] == ["stored"]


async def test_an_empty_mount_point_is_no_reason_to_pay(environment: Path, provider: Emulator) -> None:
    async with run_service(collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service)).json()
        done = await wait_for_status(service, job["job_id"], "completed", "failed")
        await wait_for_page(service)
        store = Path(done["uri"].removeprefix("file://")).parents[1]
        store.rename(store.with_name("volume"))
        store.mkdir()
        answer = await generate(service)
        assert answer.status_code == 503
        assert "has no marker" in answer.text
    assert provider.usage()["billed"] == 1


async def test_the_same_request_at_once_is_paid_once(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        answers = await asyncio.gather(*(generate(service) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {202}
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        other = (await generate(service, take=2)).json()["job_id"]
        await wait_for_status(service, job_id, "processing")
        await wait_for_status(service, other, "processing")
    assert provider.usage()["accepted"] == 2


async def test_a_key_is_never_paid_again_not_even_after_a_failure(environment: Path, provider: Emulator) -> None:
    async with run_service(await free_port()) as service:
        job = (await generate(service, prompt="[policy] no", key="r-1")).json()
        refused = await wait_for_status(service, job["job_id"], "failed")
        assert "policy" in refused["error"]
        first = (await generate(service, prompt="[fail] cat", key="r-2")).json()
        await wait_for_status(service, first["job_id"], "processing")
        provider.wait_until_idle()
        async with await open_environment_session() as session:
            job = await session.ledger.jobs.get(first["job_id"])
            generation = await session.provider.retrieve(job.generation_id or "")
            await session.ledger.jobs.record_ended(job.id, "failed", generation.fault.message, actual_usd=None)
        again = await generate(service, prompt="[fail] cat", key="r-2")
        assert (again.status_code, again.json()["job_id"], again.json()["status"]) == (200, first["job_id"], "failed")
    assert provider.usage()["accepted"] == 1


async def test_a_folder_is_not_listed_again_for_each_request(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    files = LocalStore.files

    def count(store: LocalStore, folder: str) -> AsyncIterator[StoredFile]:
        listed.append(folder)
        return files(store, folder)

    monkeypatch.setattr(LocalStore, "files", count)
    async with run_service() as service:
        for number in range(5):
            assert (await generate(service, key=f"r-{number}", prompt=f"cat {number}")).status_code == 202
    assert len(listed) == 1


async def test_requests_without_the_token_are_rejected(environment: Path, provider: Emulator) -> None:
    async with run_service() as service:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            async with httpx.AsyncClient(base_url=service.url, headers=headers) as stranger:
                assert (await stranger.post("/generate", json=REQUEST)).status_code == 401
                assert (await stranger.get("/jobs/any")).status_code == 401
    async with run_service(api_token=None) as service:
        assert (await generate(service)).status_code == 404
    assert provider.usage()["submitted"] == 0
    with pytest.raises(InvalidInput, match="fewer than 16") as caught:
        ServiceSettings.from_environment(api_token="short")
    assert "short'" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
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
    environment: Path, provider: Emulator, changes: dict[str, Any], status: int, expected: str
) -> None:
    async with run_service() as service:
        answer = await generate(service, **changes)
        assert answer.status_code == status
        assert expected in answer.text
        assert (await service.client.get("/jobs/nothing")).status_code == 404
    assert provider.usage()["submitted"] == 0


async def test_null_means_unset(environment: Path, provider: Emulator) -> None:
    nulls = dict.fromkeys(set(GenerateBody.model_fields) - {"prompt", "duration", "resolution"})
    async with run_service() as service:
        job = (await generate(service, project_id=None, **nulls)).json()
        assert (job["project"], job["take"]) == ("shots", 1)
        await wait_for_status(service, job["job_id"], "processing")
    assert provider.usage()["accepted"] == 1


async def accept_and_die() -> str:
    """Accept a job as a service does that ends before it sends; return the job's id."""
    async with await open_environment_session() as dying:
        job_requests = await build_project_job_requests(dying, project("one"), ClaimOptions(flow_run_id="request-r-1"))
        (claim,) = await claim_shots(dying, job_requests, budgets=(), partial=False)
        assert claim.job is not None
        return claim.job.id


async def test_what_was_accepted_and_not_sent_is_sent_by_the_next_start(environment: Path, provider: Emulator) -> None:
    job_id = await accept_and_die()
    async with run_service() as service:
        await wait_for_status(service, job_id, "processing")
    assert provider.usage()["accepted"] == 1


async def test_what_was_accepted_is_not_sent_where_it_could_not_be_stored(
    environment: Path, provider: Emulator
) -> None:
    job_id = await accept_and_die()
    (environment / "videos").rmdir()
    (environment / "videos").write_text("in the way")
    async with run_service() as service:
        failed = await wait_for_status(service, job_id, "failed", "processing", "completed")
    assert failed["status"] == "failed"
    assert "file" in failed["error"]
    assert provider.usage()["submitted"] == 0


async def test_the_token_is_checked_before_the_body_is_read(environment: Path, provider: Emulator) -> None:
    async def without_length() -> Any:
        for _ in range(100):
            yield b" " * 1_000

    async with run_service() as service:
        async with httpx.AsyncClient(base_url=service.url) as stranger:
            assert (await stranger.post("/generate", content=b"x" * 100_000)).status_code == 401
        assert (await service.client.post("/generate", content=b" " * 100_000)).status_code == 413
        assert (await service.client.post("/generate", content=without_length())).status_code == 413


@pytest.mark.parametrize("with_webhook", [True, False], ids=["lost", "none requested"])
async def test_a_job_is_done_without_any_webhook(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, with_webhook: bool
) -> None:
    provider.add_fault(operation="webhook", kind="drop", times=None)
    port = await free_port()
    if with_webhook:
        monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    async with run_service(port, collect=True, sweep_seconds=0.1) as service:
        job = (await generate(service)).json()
        assert (await wait_for_status(service, job["job_id"], "completed", "failed"))["status"] == "completed"
    assert provider.usage()["billed"] == 1


async def test_a_webhook_frees_the_slot_of_the_next_job_at_once(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test: only the end of a generation can wake up a job that waits for its slot.
    monkeypatch.setattr(import_module("prefect_video.pipeline.steps.submit"), "_SLOT_SECONDS", 600.0)
    port = await free_port()
    monkeypatch.setenv("PREFECT_VIDEO_WEBHOOK_URL", f"http://127.0.0.1:{port.getsockname()[1]}")
    jobs = 25
    async with run_service(port) as service:
        await asyncio.gather(*(generate(service, prompt=f"cat {number}") for number in range(jobs)))
        async with asyncio.timeout(60):
            while provider.usage()["accepted"] < jobs:
                await asyncio.sleep(0.05)
    assert provider.usage()["accepted"] == jobs


async def test_an_exhausted_quota_is_reported_to_each_request(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    submits = 0

    async def refuse(*_: object, **__: object) -> None:
        nonlocal submits
        submits += 1
        raise QuotaExhausted("no credits are left", provider="sora")

    monkeypatch.setattr(SoraProvider, "submit", refuse)
    async with run_service() as service:
        for prompt in ("one", "two"):
            job = (await generate(service, prompt=prompt)).json()
            assert "no credits" in (await wait_for_status(service, job["job_id"], "failed"))["error"]
    assert submits == 1


async def test_a_request_has_a_priority(environment: Path, provider: Emulator) -> None:
    async with run_service() as service, await open_environment_session() as session:
        job = (await generate(service, priority="high")).json()
        assert (await session.ledger.jobs.get(job["job_id"])).priority == 1
        assert (await generate(service, priority="highest")).status_code == 422


async def free_port() -> socket.socket:
    """Open a socket on a free port, whose address is known before the service starts."""
    return socket.create_server(("127.0.0.1", 0))


def test_images_of_a_request_are_urls_never_files_of_the_service() -> None:
    from pydantic import ValidationError

    from prefect_video.service.jobs.service import GenerateBody

    body = GenerateBody(prompt="a cat", first_frame="https://example.com/a.png", audio=True, options={"loop": True})
    shot = body.build_shot()
    assert (shot.first_frame, shot.audio, shot.options) == ("https://example.com/a.png", True, {"loop": True})
    for path in ("/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "a.png"):
        with pytest.raises(ValidationError):
            GenerateBody(prompt="a cat", first_frame=path)
        with pytest.raises(ValidationError):
            GenerateBody(prompt="a cat", references=(path,))
    # A key that was bound before these fields came still stands for its request.
    assert GenerateBody(prompt="a cat").digest == GenerateBody(prompt="a cat", options={}, references=()).digest
