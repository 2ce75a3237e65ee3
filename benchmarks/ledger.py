"""Speed of the ledger: claims per second and the time of a warm lookup.

    python -m benchmarks.ledger [--shots 1000] [URL]

Without a URL a new SQLite file is measured. The jobs stay in the ledger, in the environment `benchmark`: use a database
that may be deleted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

from prefect_video.assets import Asset
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Budget, Job, JobRequest, Ledger
from prefect_video.shots import Shot

ENVIRONMENT = "benchmark"


@contextmanager
def print_time(label: str, count: int) -> Iterator[None]:
    """Print the time of a block, and the rate of the operations in it."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{label:<44}{seconds * 1000:>10.1f} ms{count / seconds:>12,.0f} /s")


def build_job_requests(shots: int) -> list[JobRequest]:
    """Build requests that no other run has made."""
    run = uuid.uuid4().hex
    return [
        JobRequest(
            fingerprint=f"{run}-{number}",
            shot=Shot(id=f"shot-{number}", prompt="a lighthouse at dawn"),
            project=f"benchmark-{run}",
            provider="emulator",
            account=f"emulator-{run}",
            environment=ENVIRONMENT,
            store="file:///benchmark",
            estimate_usd=Decimal("0.80"),
            flow_run_id=run,
        )
        for number in range(shots)
    ]


def build_asset(job: Job) -> Asset:
    """Build the asset of a job's video."""
    return Asset(
        uri=f"file:///benchmark/{job.id}.mp4",
        sha256="0" * 64,
        bytes=1,
        duration_seconds=10,
        width=1920,
        height=1080,
        project=job.project,
        shot_id=job.shot.id,
        fingerprint=job.fingerprint,
        prompt=job.shot.prompt,
        model=job.shot.model,
        provider=job.provider,
        generation_id=job.id,
        created_at=datetime.now(UTC),
    )


async def finish_job(ledger: Ledger, job: Job) -> None:
    """Move a job from `reserved` to `stored`."""
    generation = Generation(id=job.id, provider="emulator", status=Status.COMPLETED)
    await ledger.accounts.acquire_slot(job.id, slots=None)
    await ledger.jobs.record_submitted(job.id, generation)
    await ledger.jobs.record_completed(job.id, generation)
    await ledger.jobs.record_stored(job.id, build_asset(job))


async def measure(url: str, shots: int) -> None:
    """Measure one ledger and print the table."""
    async with await Ledger.open(url, migrate=True) as ledger:
        print(ledger.url_label)
        requests = build_job_requests(shots)
        budgets = [Budget(scope="project", limit_usd=Decimal(10**6)), Budget(scope="month", limit_videos=10**9)]
        with print_time(f"claim {shots} at once", shots):
            batch = await ledger.claims.claim(requests, budgets)
        jobs = [claim.job for claim in batch.claims if claim.job is not None]
        with print_time(f"4 steps for each of {shots}", 4 * shots):
            await asyncio.gather(*(finish_job(ledger, job) for job in jobs))
        with print_time(f"find_stored {shots}", shots):
            found = await ledger.jobs.find_stored(requests)
        assert all(found)
        with print_time(f"claim {shots} that are stored", shots):
            await ledger.claims.claim(requests, budgets)
        single = build_job_requests(100)
        with print_time("claim 100 one by one", 100):
            for request in single:
                await ledger.claims.claim([request], budgets)
        for job in await ledger.jobs.unfinished(flow_run_id=single[0].flow_run_id):
            await ledger.jobs.release_reservation(job.id, "benchmark")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--shots", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options.url or f"{folder}/ledger.db", options.shots))


if __name__ == "__main__":
    main()
