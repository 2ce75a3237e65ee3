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
from prefect_video.ledger import Entry, Ledger, ReceivedEvent, State
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.steps import build_project_intents, claim_shots, submit
from prefect_video.session.session import Studio
from prefect_video.shots import Project
from tests.support.service_fixtures import Service, open_studio, serving


def project(*prompts: str, **given: object) -> Project:
    shots = [{"id": f"s{n}", "prompt": prompt} for n, prompt in enumerate(prompts)]
    return Project.model_validate(
        {"project": "film", "defaults": {"duration": 1, "resolution": "480p"}, "shots": shots, **given}
    )


async def submitted(studio: Studio, prompt: str = "a cat") -> Entry:
    """One generation at the provider."""
    (claim,) = await claim_shots(
        studio, await build_project_intents(studio, project(prompt)), budgets=(), partial=False
    )
    assert claim.entry is not None
    return await submit(studio, claim.entry)


def event(generation_id: str, kind: str = "generation.completed", **changes: Any) -> bytes:
    body = {
        "event_type": kind,
        "event_id": f"evt_{uuid.uuid4().hex}",
        "timestamp": int(time.time()),
        "data": {"generation_id": generation_id, "status": kind.split(".")[-1]},
    }
    return json.dumps({**body, **changes}, separators=(",", ":")).encode()


def signed(body: bytes, secret: str) -> dict[str, str]:
    return {"X-Sora-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


async def post(service: Service, body: bytes, secret: str, path: str = "/webhooks/sora") -> httpx.Response:
    return await service.client.post(path, content=body, headers=signed(body, secret))


async def test_a_run_with_webhooks_asks_once_per_generation(environment: Path, provider: Emulator) -> None:
    # However slow the machine is, what is counted is the webhooks' doing: the fallback comes after the test's end.
    async with serving() as service, await open_studio(service.url, grace_seconds=600) as studio:
        report = await run_project(studio, project("one", "two", "three"))
        await service.announcements(3)
        assert [shot.status for shot in report.shots] == ["stored"] * 3
        assert provider.books()["polled"] == 3
        assert provider.books()["billed"] == 3
        assert await service.count("prefect_video_webhooks_handled_total", outcome="completed") == 3
        left = await studio.ledger.take_told(studio.provider.account.id, report.shots[0].generation_id or "")
        assert left is None, "the link was taken, and is not kept"


async def test_a_failed_generation_is_told_and_tried_again(environment: Path, provider: Emulator) -> None:
    async with serving() as service, await open_studio(service.url) as studio:
        report = await run_project(studio, project("[fail] one"))
        await service.announcements(2)
        assert [shot.status for shot in report.shots] == ["failed"]
        assert {entry.state for entry, _ in service.announced} == {State.FAILED}
        assert provider.books()["billed"] == 0


async def test_a_lost_webhook_costs_time_not_a_video(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="webhook", kind="drop", times=None)
    async with serving() as service, await open_studio(service.url) as studio:
        report = await run_project(studio, project("one"))
        assert report.shots[0].status == "stored"
        assert service.announced == []


async def test_late_duplicate_and_forged_deliveries_do_nothing_twice(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="webhook", kind="duplicate", times=None, copies=3, match={"prompt": "twice"})
    provider.add_fault(operation="webhook", kind="forged", match={"prompt": "forged"})
    async with serving() as service, await open_studio(service.url) as studio:
        report = await run_project(studio, project("twice", "forged"))
        await service.announcements(2)
        provider.settle()
        assert [shot.status for shot in report.shots] == ["stored"] * 2
        assert len({told.event_id for _, told in service.announced}) == len(service.announced) == 2
        async with asyncio.timeout(10):
            while await service.count("prefect_video_webhooks_received_total", outcome="duplicate") < 2:
                await asyncio.sleep(0.02)
        assert await service.count("prefect_video_webhooks_received_total", outcome="forged") >= 1


async def test_what_is_not_signed_by_us_changes_nothing(environment: Path, provider: Emulator) -> None:
    async with serving() as service, await open_studio() as studio:
        entry = await submitted(studio)
        body = event(entry.generation_id or "")
        stale = event(entry.generation_id or "", timestamp=int(time.time()) - 301)
        secret = provider.webhook_secret
        assert (await post(service, body, "another")).status_code == 401
        assert (await service.client.post("/webhooks/sora", content=body)).status_code == 401
        assert (await post(service, stale, secret)).status_code == 401
        assert (await post(service, b"[]", secret)).status_code == 401
        assert (await post(service, body, secret, "/webhooks/fal")).status_code == 404
        assert (await post(service, body, secret, "/webhook/nobody")).status_code == 404
        assert (await post(service, body + b" " * 65_536, secret)).status_code == 413
        assert await service.count("prefect_video_webhooks_received_total", outcome="forged") == 4
        assert await service.count("prefect_video_webhooks_received_total", outcome="unknown") == 2
        assert await service.count("prefect_video_webhooks_received_total", outcome="too_large") == 1
        account = studio.provider.account.id
        assert await studio.ledger.pending_events([account], since=datetime(2020, 1, 1, tzinfo=UTC)) == []
        assert (await studio.ledger.get(entry.id)).state is State.SUBMITTED


async def test_a_body_without_a_length_is_limited_too(environment: Path) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1_000

    async with serving() as service:
        assert (await service.client.post("/webhooks/sora", content=endless())).status_code == 413


@pytest.mark.parametrize("name", ["sora", "account"])
async def test_an_account_goes_by_its_names_and_by_the_job(environment: Path, provider: Emulator, name: str) -> None:
    async with serving() as service, await open_studio() as studio:
        path = f"/webhooks/{studio.provider.account.id if name == 'account' else name}"
        first, second = await submitted(studio, "one"), await submitted(studio, "two")
        provider.settle()
        assert (await post(service, event(first.generation_id or ""), provider.webhook_secret, path)).is_success
        wrong = await post(service, event(first.generation_id or ""), provider.webhook_secret, f"/webhook/{second.id}")
        assert wrong.status_code == 404
        right = await post(service, event(second.generation_id or ""), provider.webhook_secret, f"/webhook/{second.id}")
        assert right.json() == {"received": True}
        told = await service.announcements(2)
        assert {entry.id for entry, _ in told} == {first.id, second.id}


async def test_secrets_can_be_rotated(environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORA_WEBHOOK_SECRET", f"whsec_new,{provider.webhook_secret}")
    async with serving() as service, await open_studio() as studio:
        entry = await submitted(studio)
        for secret, status in (("whsec_new", 200), (provider.webhook_secret, 200), ("whsec_old", 401)):
            assert (await post(service, event(entry.generation_id or ""), secret)).status_code == status


async def test_progress_is_written_down_and_costs_no_request(environment: Path, provider: Emulator) -> None:
    async with serving() as service, await open_studio() as studio:
        entry = await submitted(studio)
        for kind in ("generation.queued", "generation.started"):
            body = event(entry.generation_id or "", kind)
            assert (await post(service, body, provider.webhook_secret)).is_success
        assert await service.count("prefect_video_webhooks_received_total", outcome="accepted") == 2
        assert provider.books()["polled"] == 0


async def test_an_acknowledged_event_survives_the_process(environment: Path, provider: Emulator) -> None:
    async with await open_studio() as studio:
        entry = await submitted(studio)
        provider.settle()
        account = studio.provider.account.id
        lost = ReceivedEvent(
            account=account,
            event_id="evt_1",
            generation_id=entry.generation_id or "",
            type="generation.completed",
            received_at=datetime.now(UTC),
        )
        # As the receiver leaves it when it is killed right after its answer.
        assert await studio.ledger.receive_events([lost]) == [True]
        async with serving() as service:
            await service.announcements(1)
        assert (await studio.ledger.get(entry.id)).state is State.COMPLETED
    async with serving() as service:
        assert service.announced == []


async def test_more_than_fits_into_memory_is_handled_all_the_same(environment: Path, provider: Emulator) -> None:
    async with await open_studio() as studio:
        entries = [await submitted(studio, f"cat {n}") for n in range(8)]
        provider.settle()
        async with serving(backlog=2, workers=1) as service:
            posts = [post(service, event(e.generation_id or ""), provider.webhook_secret) for e in entries]
            assert all(answer.is_success for answer in await asyncio.gather(*posts))
            told = await service.announcements(8)
            assert {entry.id for entry, _ in told} == {entry.id for entry in entries}
    assert provider.books()["polled"] == 8


async def test_a_hint_that_comes_too_early_is_looked_at_again(environment: Path, provider: Emulator) -> None:
    provider.add_fault(operation="retrieve", kind="unknown_status", status="processing", times=2)
    async with serving() as service, await open_studio() as studio:
        entry = await submitted(studio)
        provider.settle()
        assert (await post(service, event(entry.generation_id or ""), provider.webhook_secret)).is_success
        await service.announcements(1)
        assert (await studio.ledger.get(entry.id)).state is State.COMPLETED
        assert await service.count("prefect_video_webhooks_handled_total", outcome="retried") == 2


async def test_events_of_others_with_the_same_key_are_dismissed(environment: Path, provider: Emulator) -> None:
    async with serving(sweep_seconds=0.2) as service, await open_studio() as studio:
        assert (await post(service, event("gen_of_somebody"), provider.webhook_secret)).is_success
        async with asyncio.timeout(10):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="stranger"):
                await asyncio.sleep(0.02)
        pending = await studio.ledger.pending_events(
            [studio.provider.account.id], since=datetime(2020, 1, 1, tzinfo=UTC)
        )
        assert pending == []
        assert provider.books()["polled"] == 0


async def test_one_that_is_recorded_late_is_no_stranger(environment: Path, provider: Emulator) -> None:
    async with serving(sweep_seconds=0.1) as service, await open_studio() as studio:
        (claim,) = await claim_shots(
            studio, await build_project_intents(studio, project("one")), budgets=(), partial=False
        )
        assert claim.entry is not None
        entry = await studio.ledger.begin_submit(claim.entry.id)
        told = await studio.provider.submit(entry.shot, idempotency_key=entry.id, project="film")
        provider.settle()
        assert (await post(service, event(told.id), provider.webhook_secret)).is_success
        async with asyncio.timeout(10):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="put_aside"):
                await asyncio.sleep(0.02)
        await studio.ledger.record_submitted(entry.id, told)
        await service.announcements(1)


async def test_an_outage_longer_than_all_tries_loses_no_event(environment: Path, provider: Emulator) -> None:
    async with serving(attempts=2, sweep_seconds=0.1) as service, await open_studio() as studio:
        entry = await submitted(studio)
        provider.settle()
        provider.add_fault(operation="retrieve", kind="error_before", times=None)
        assert (await post(service, event(entry.generation_id or ""), provider.webhook_secret)).is_success
        async with asyncio.timeout(60):
            while not await service.count("prefect_video_webhooks_handled_total", outcome="put_aside"):
                await asyncio.sleep(0.05)
        provider.clear_faults()
        await service.announcements(1)
        assert (await studio.ledger.get(entry.id)).state is State.COMPLETED


@pytest.mark.parametrize("event_id", ["evt_\ud800", "evt_\0"])
async def test_names_that_no_database_keeps_are_refused(environment: Path, provider: Emulator, event_id: str) -> None:
    async with serving() as service, await open_studio() as studio:
        entry = await submitted(studio)
        told = event(entry.generation_id or "", event_id=event_id)
        assert (await post(service, told, provider.webhook_secret)).status_code == 400
        assert (await post(service, event(entry.generation_id or ""), provider.webhook_secret)).is_success


async def test_what_cannot_be_written_down_is_not_acknowledged(
    environment: Path, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> list[bool]:
        raise LedgerUnavailable("the disk is full")

    async with serving() as service:
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "receive_events", refuse)
            assert (await post(service, event("gen_1"), provider.webhook_secret)).status_code == 503
        assert (await service.client.get("/healthz")).json() == {"status": "ok"}
