"""A running service whose account's block is changed: new keys and secrets count without a restart."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from pathlib import Path

import pytest

from prefect_video.blocks import SoraCredentials
from prefect_video.emulator import Emulator
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots, submit
from prefect_video.projects import Project
from prefect_video.service.settings import ServiceSettings
from prefect_video.session import SessionRef
from prefect_video.tasks import use_session
from tests.support.service_fixtures import Service, run_service

NEW_KEY = "sk-the-new-one-of-the-service"
BLOCK = "sora-credentials/rotated-service"


async def save_block(provider: Emulator, key: str, secret: str, **fields: str) -> None:
    block = SoraCredentials(
        api_key=key,
        endpoint=provider.endpoint,
        plan="emulator",
        webhook_secret=secret,
        **fields,  # type: ignore[arg-type]
    )
    await block.save(BLOCK.partition("/")[2], overwrite=True)  # type: ignore[misc]


async def submit_with_block(prompt: str) -> Job:
    """Submit a generation, in the session that the service has opened."""
    shots = [{"id": "s", "prompt": prompt, "duration": 1, "resolution": "480p"}]
    async with use_session(SessionRef.from_names(BLOCK)) as session:
        requests = await build_project_job_requests(
            session, Project.model_validate({"project": "film", "shots": shots})
        )
        (claim,) = await claim_shots(session, requests, budgets=(), partial=False)
        assert claim.job is not None
        job = await submit(session, claim.job)
        await session.ledger.claims.release_ownership([job.id])
    return job


async def deliver(service: Service, job: Job, secret: str) -> int:
    event = {
        "event_type": "generation.completed",
        "event_id": f"evt_{uuid.uuid4().hex}",
        "timestamp": int(time.time()),
        "data": {"generation_id": job.generation_id, "status": "completed"},
    }
    body = json.dumps(event).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    path = f"/webhooks/{BLOCK}"
    return (await service.client.post(path, content=body, headers={"X-Sora-Signature": signature})).status_code


@pytest.mark.usefixtures("prefect_api")
async def test_a_changed_block_counts_without_a_restart(environment: Path, provider: Emulator) -> None:
    await save_block(provider, provider.key, "old-secret")
    async with run_service(accounts=(BLOCK,), reload_seconds=0.05, announce=False) as service:
        session = service.app.state.sessions.sessions[0]
        before = await submit_with_block("sent with the old key")
        provider.issue_key(NEW_KEY, same_account_as=provider.key)
        await save_block(provider, NEW_KEY, "new-secret", previous_webhook_secret="old-secret")
        provider.revoke_key(provider.key)
        async with asyncio.timeout(300):
            while session.provider.account.key_fingerprint == before.key_fingerprint:
                await asyncio.sleep(0.05)
        after = await submit_with_block("sent with the new key")
        assert after.key_fingerprint == session.provider.account.key_fingerprint
        provider.wait_until_idle()
        assert before.account == after.account == session.provider.account.id
        assert [await deliver(service, before, "old-secret"), await deliver(service, after, "new-secret")] == [200, 200]
        await service.wait_for_announcements(2)
        states = {(await session.ledger.jobs.get(job.id)).state for job in (before, after)}
        assert states == {State.COMPLETED}
        assert await deliver(service, after, "another-secret") == 401
        await save_block(provider, NEW_KEY, "new-secret", account="another")
        async with asyncio.timeout(300):
            while service.app.state.watch.noted(BLOCK)["account"] != "another":
                await asyncio.sleep(0.05)
        assert session.provider.account.id == after.account
    assert provider.usage()["billed"] == 2


def test_a_changed_block_counts_within_a_minute() -> None:
    seconds = ServiceSettings.model_fields["reload_seconds"].default
    assert 0 < seconds <= 60, "a key that is revoked when its block is saved must not be used for longer than a minute"
