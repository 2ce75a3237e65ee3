"""Deliveries of a real provider to a running service."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_video.emulator import Emulator
from prefect_video.errors import LedgerUnavailable
from prefect_video.ledger import Job, ReceivedEvent, State
from prefect_video.ledger.webhook_events import WebhookEvents
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots, submit
from prefect_video.projects import Project
from prefect_video.session import Session
from tests.support.records import begin_submit
from tests.support.service_fixtures import Service, open_environment_session, run_service


def project(*prompts: str, **fields: object) -> Project:
    """Build a project of short shots."""
    shots = [{"id": f"s{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    return Project.model_validate(
        {"project": "film", "defaults": {"duration": 1, "resolution": "480p"}, "shots": shots, **fields}
    )


async def submit_generation(session: Session, prompt: str = "a cat") -> Job:
    """Submit one generation."""
    (claim,) = await claim_shots(
        session, await build_project_job_requests(session, project(prompt)), budgets=(), partial=False
    )
    assert claim.job is not None
    return await submit(session, claim.job)


def build_event(generation_id: str, kind: str = "generation.completed", **changes: Any) -> bytes:
    """Build the body of a webhook, as Sora sends it."""
    body = {
        "event_type": kind,
        "event_id": f"evt_{uuid.uuid4().hex}",
        "timestamp": int(time.time()),
        "data": {"generation_id": generation_id, "status": kind.split(".")[-1]},
    }
    return json.dumps({**body, **changes}, separators=(",", ":")).encode()


def sign(body: bytes, secret: str) -> dict[str, str]:
    """Build the header of a signed delivery."""
    return {"X-Sora-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


async def post(service: Service, body: bytes, secret: str, path: str = "/webhooks/sora") -> httpx.Response:
    """Send a signed delivery."""
    return await service.client.post(path, content=body, headers=sign(body, secret))


async def test_a_run_with_webhooks_asks_once_per_generation(environment: Path, provider: Emulator) -> None:
    # However slow the machine is, what is counted is the webhooks' doing: the fallback comes after the test's end.
    async with run_service() as service, await open_environment_session(service.url, grace_seconds=600) as session:
        report = await run_project(session, project("one", "two", "three"))
        await service.wait_for_announcements(3)
        assert [shot.status for shot in report.shots] == ["stored"] * 3
        assert provider.usage()["polled"] == 3
        assert provider.usage()["billed"] == 3
        assert await service.count("prefect_video_webhooks_handled_total", outcome="completed") == 3
        left = await session.ledger.events.pop_generation(
            session.provider.account.id, report.shots[0].generation_id or ""
        )
        assert left is None, "the link was taken, and is not kept"


async def test_a_failed_generation_is_announced_and_tried_again(environment: Path, provider: Emulator) -> None:
    async with run_service() as service, await open_environment_session(service.url) as session:
        report = await run_project(session, project("[fail] one"))
        await service.wait_for_announcements(2)
        assert [shot.status for shot in report.shots] == ["failed"]
        assert {job.state for job, _ in service.announced} == {State.FAILED}
        assert provider.usage()["billed"] == 0


async def test_a_lost_webhook_costs_time_not_a_video(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="webhook", kind="drop", times=None)
    async with run_service() as service, await open_environment_session(service.url) as session:
        report = await run_project(session, project("one"))
        assert report.shots[0].status == "stored"
        assert service.announced == []


async def test_late_duplicate_and_forged_deliveries_do_nothing_twice(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="webhook", kind="duplicate", times=None, copies=3, match={"prompt": "twice"})
    provider.add_fault(operation="webhook", kind="forged", match={"prompt": "forged"})
    async with run_service() as service, await open_environment_session(service.url) as session:
        report = await run_project(session, project("twice", "forged"))
        await service.wait_for_announcements(2)
        provider.wait_until_idle()
        assert [shot.status for shot in report.shots] == ["stored"] * 2
        assert len({event.event_id for _, event in service.announced}) == len(service.announced) == 2
        async with asyncio.timeout(60):
            while await service.count("prefect_video_webhooks_received_total", outcome="duplicate") < 2:
                await asyncio.sleep(0.02)
        assert await service.count("prefect_video_webhooks_received_total", outcome="forged") >= 1


async def test_a_delivery_without_a_valid_signature_changes_nothing(environment: Path, provider: Emulator) -> None:
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        body = build_event(job.generation_id or "")
        stale = build_event(job.generation_id or "", timestamp=int(time.time()) - 301)
        secret = provider.webhook_secret
        assert (await post(service, body, "another")).status_code == 401
        assert (await service.client.post("/webhooks/sora", content=body)).status_code == 401
        assert (await post(service, stale, secret)).status_code == 401
        assert (await post(service, b"[]", secret)).status_code == 401
        assert (await post(service, body, secret, "/webhooks/fal")).status_code == 404
        assert (await post(service, body, secret, "/webhook/unknown")).status_code == 404
        assert (await post(service, body + b" " * 65_536, secret)).status_code == 413
        assert await service.count("prefect_video_webhooks_received_total", outcome="forged") == 4
        assert await service.count("prefect_video_webhooks_received_total", outcome="unknown") == 2
        assert await service.count("prefect_video_webhooks_received_total", outcome="too_large") == 1
        account = session.provider.account.id
        assert await session.ledger.events.pending_events([account], since=datetime(2020, 1, 1, tzinfo=UTC)) == []
        assert (await session.ledger.jobs.get(job.id)).state is State.SUBMITTED


async def test_a_body_without_a_length_is_limited_too(environment: Path) -> None:
    async def stream_body() -> Any:
        for _ in range(100):
            yield b"x" * 1_000

    async with run_service() as service:
        assert (await service.client.post("/webhooks/sora", content=stream_body())).status_code == 413


@pytest.mark.parametrize("name", ["sora", "account"])
async def test_an_account_goes_by_its_names_and_by_the_job(environment: Path, provider: Emulator, name: str) -> None:
    async with run_service() as service, await open_environment_session() as session:
        path = f"/webhooks/{session.provider.account.id if name == 'account' else name}"
        first, second = await submit_generation(session, "one"), await submit_generation(session, "two")
        provider.wait_until_idle()
        assert (await post(service, build_event(first.generation_id or ""), provider.webhook_secret, path)).is_success
        wrong = await post(
            service, build_event(first.generation_id or ""), provider.webhook_secret, f"/webhook/{second.id}"
        )
        assert wrong.status_code == 404
        right = await post(
            service, build_event(second.generation_id or ""), provider.webhook_secret, f"/webhook/{second.id}"
        )
        assert right.json() == {"received": True}
        announced = await service.wait_for_announcements(2)
        assert {job.id for job, _ in announced} == {first.id, second.id}


async def test_secrets_can_be_rotated(environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_WEBHOOK_SECRET", f"whsec_new,{provider.webhook_secret}")
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        for secret, status in (("whsec_new", 200), (provider.webhook_secret, 200), ("whsec_old", 401)):
            assert (await post(service, build_event(job.generation_id or ""), secret)).status_code == status


async def test_refused_deliveries_are_logged_once_a_minute_with_their_reasons(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SORA_WEBHOOK_SECRET", f' "whsec_new", {provider.webhook_secret}" \n')
    nested = b"[" * 60_000
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        body = build_event(job.generation_id or "")
        for _ in range(20):
            assert (await post(service, body, "whsec_old")).status_code == 401
        assert (await post(service, nested, provider.webhook_secret)).status_code == 400
        assert (await post(service, body, provider.webhook_secret)).status_code == 200
        assert await service.count("prefect_video_webhooks_received_total", outcome="forged") == 20
    lines = [record.getMessage() for record in caplog.records if "deliveries were refused" in record.message]
    assert len(lines) == 2
    reason = "x HTTP 401: sora: webhook: the signature does not match any of the account's secrets"
    assert f"1 {reason}" in lines[0]
    assert f"19 {reason}" in lines[1]
    assert "1 x HTTP 400: it is nested more than" in lines[1]


async def test_progress_is_stored_and_costs_no_request(environment: Path, provider: Emulator) -> None:
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        for kind in ("generation.queued", "generation.started"):
            body = build_event(job.generation_id or "", kind)
            assert (await post(service, body, provider.webhook_secret)).is_success
        assert await service.count("prefect_video_webhooks_received_total", outcome="accepted") == 2
        assert provider.usage()["polled"] == 0


async def test_an_acknowledged_event_survives_the_process(environment: Path, provider: Emulator) -> None:
    async with await open_environment_session() as session:
        job = await submit_generation(session)
        provider.wait_until_idle()
        account = session.provider.account.id
        lost = ReceivedEvent(
            account=account,
            event_id="evt_1",
            generation_id=job.generation_id or "",
            type="generation.completed",
            received_at=datetime.now(UTC),
        )
        # As the receiver leaves it when it is killed right after its answer.
        assert await session.ledger.events.receive_events([lost]) == [True]
        async with run_service() as service:
            await service.wait_for_announcements(1)
        assert (await session.ledger.jobs.get(job.id)).state is State.COMPLETED
    async with run_service() as service:
        assert service.announced == []


async def test_more_than_fits_into_memory_is_handled_all_the_same(environment: Path, provider: Emulator) -> None:
    async with await open_environment_session() as session:
        jobs = [await submit_generation(session, f"cat {n}") for n in range(8)]
        provider.wait_until_idle()
        async with run_service(backlog=2, workers=1) as service:
            posts = [post(service, build_event(job.generation_id or ""), provider.webhook_secret) for job in jobs]
            assert all(answer.is_success for answer in await asyncio.gather(*posts))
            announced = await service.wait_for_announcements(8)
            assert {job.id for job, _ in announced} == {job.id for job in jobs}
    assert provider.usage()["polled"] == 8


async def test_an_event_that_comes_too_early_is_handled_again(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="retrieve", kind="unknown_status", status="processing", times=2)
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        provider.wait_until_idle()
        assert (await post(service, build_event(job.generation_id or ""), provider.webhook_secret)).is_success
        await service.wait_for_announcements(1)
        assert (await session.ledger.jobs.get(job.id)).state is State.COMPLETED
        assert await service.count("prefect_video_webhooks_handled_total", outcome="retried") == 2


async def test_events_of_others_with_the_same_key_are_dismissed(environment: Path, provider: Emulator) -> None:
    async with run_service(sweep_seconds=0.2) as service, await open_environment_session() as session:
        assert (await post(service, build_event("gen_of_other_software"), provider.webhook_secret)).is_success
        async with asyncio.timeout(60):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="unknown"):
                await asyncio.sleep(0.02)
            # Counted when it is decided, and marked with the next ones in one transaction.
            while await session.ledger.events.pending_events(
                [session.provider.account.id], since=datetime(2020, 1, 1, tzinfo=UTC)
            ):
                await asyncio.sleep(0.02)
        assert provider.usage()["polled"] == 0


async def test_a_generation_recorded_late_is_not_dismissed(environment: Path, provider: Emulator) -> None:
    async with run_service(sweep_seconds=0.1) as service, await open_environment_session() as session:
        (claim,) = await claim_shots(
            session, await build_project_job_requests(session, project("one")), budgets=(), partial=False
        )
        assert claim.job is not None
        job = await begin_submit(session.ledger, claim.job.id)
        generation = await session.provider.submit(job.shot, idempotency_key=job.id, project="film")
        provider.wait_until_idle()
        assert (await post(service, build_event(generation.id), provider.webhook_secret)).is_success
        async with asyncio.timeout(60):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="postponed"):
                await asyncio.sleep(0.02)
        await session.ledger.jobs.record_submitted(job.id, generation)
        await service.wait_for_announcements(1)


async def test_an_outage_longer_than_all_tries_loses_no_event(environment: Path, provider: Emulator) -> None:
    async with run_service(attempts=2, sweep_seconds=0.1) as service, await open_environment_session() as session:
        job = await submit_generation(session)
        provider.wait_until_idle()
        provider.add_fault(operation="retrieve", kind="error_before", times=None)
        assert (await post(service, build_event(job.generation_id or ""), provider.webhook_secret)).is_success
        async with asyncio.timeout(60):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="postponed"):
                await asyncio.sleep(0.05)
        provider.clear_faults()
        await service.wait_for_announcements(1)
        assert (await session.ledger.jobs.get(job.id)).state is State.COMPLETED


@pytest.mark.parametrize("event_id", ["evt_\ud800", "evt_\0"])
async def test_names_that_no_database_keeps_are_refused(environment: Path, provider: Emulator, event_id: str) -> None:
    async with run_service() as service, await open_environment_session() as session:
        job = await submit_generation(session)
        body = build_event(job.generation_id or "", event_id=event_id)
        assert (await post(service, body, provider.webhook_secret)).status_code == 400
        assert (await post(service, build_event(job.generation_id or ""), provider.webhook_secret)).is_success


async def test_an_event_that_cannot_be_stored_is_not_acknowledged(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> list[bool]:
        raise LedgerUnavailable("the disk is full")

    async with run_service() as service:
        with monkeypatch.context() as patch:
            patch.setattr(WebhookEvents, "receive_events", refuse)
            assert (await post(service, build_event("gen_1"), provider.webhook_secret)).status_code == 503
        assert (await service.client.get("/healthz")).json() == {"status": "ok"}
