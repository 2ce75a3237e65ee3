"""Records to put into a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from prefect_video.assets import Asset
from prefect_video.generations import Generation, Status, VideoResult
from prefect_video.ledger import Job, JobRequest, Ledger
from prefect_video.shots import Shot

PRICE = Decimal("2.40")


def fingerprint_of(number: int) -> str:
    return f"v1:{number:064x}"


def a_request(number: int = 1, **changes: Any) -> JobRequest:
    values: dict[str, Any] = {
        "fingerprint": fingerprint_of(number),
        "shot": Shot(id=f"shot-{number}", prompt=f"a cat, take {number}"),
        "project": "coffee-ad",
        "provider": "sora",
        "account": "sora-1",
        "store": "file:///videos",
        "estimate_usd": PRICE,
        "flow_run_id": "run-1",
    }
    return JobRequest(**(values | changes))


def a_generation(generation_id: str = "gen-1", **changes: Any) -> Generation:
    values: dict[str, Any] = {"id": generation_id, "provider": "sora", "status": Status.COMPLETED}
    return Generation(**(values | changes))


def a_result(expires_at: datetime) -> VideoResult:
    return VideoResult(video_url="https://cdn.example/video.mp4", expires_at=expires_at)


def an_asset(job: Job | None = None, **changes: Any) -> Asset:
    values: dict[str, Any] = {
        "uri": "file:///videos/coffee-ad/shot.mp4",
        "sha256": "ab" * 32,
        "bytes": 1000,
        "duration_seconds": 10.0,
        "width": 1920,
        "height": 1080,
        "project": "coffee-ad",
        "shot_id": job.shot.id if job else "shot-1",
        "fingerprint": job.fingerprint if job else fingerprint_of(1),
        "prompt": "a cat",
        "model": "sora-2",
        "provider": "sora",
        "generation_id": (job.generation_id if job else None) or "gen-1",
        "created_at": datetime.now(UTC),
    }
    return Asset(**(values | changes))


async def claim_one(ledger: Ledger, number: int = 1, **changes: Any) -> Job:
    """Claim one request that must be acquired."""
    (claim,) = (await ledger.claims.claim([a_request(number, **changes)])).claims
    assert claim.kind == "acquired"
    assert claim.job is not None
    return claim.job


async def begin_submit(ledger: Ledger, job_id: str, **sending: Any) -> Job:
    """Begin a submit as a shot does that has not to wait for a slot."""
    job = await ledger.accounts.acquire_slot(job_id, slots=None, **sending)
    assert job is not None
    return job


async def submit_one(ledger: Ledger, number: int = 1, **changes: Any) -> Job:
    """Claim one request and record it as accepted as `gen-<number>`."""
    job = await claim_one(ledger, number, **changes)
    await begin_submit(ledger, job.id)
    return await ledger.jobs.record_submitted(job.id, a_generation(f"gen-{number}"))


async def store_one(ledger: Ledger, number: int = 1, *, cost_usd: Decimal | None = None, **changes: Any) -> Job:
    """Take one request through to a stored file."""
    job = await submit_one(ledger, number, **changes)
    await ledger.jobs.record_completed(job.id, a_generation(f"gen-{number}", cost_usd=cost_usd))
    return await ledger.jobs.record_stored(job.id, an_asset(job))
