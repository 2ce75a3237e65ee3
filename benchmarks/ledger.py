"""How fast the ledger is: claims per second and the time of a warm look-up.

Run: `python benchmarks/ledger.py [--shots 1000] [URL]`. Without a URL a new SQLite file is measured. The rows stay
in the ledger for good, in the environment `benchmark`: give the URL of a database that may be thrown away.
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
def timed(what: str, number: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    print(f"{what:<44}{seconds * 1000:>10.1f} ms{number / seconds:>12,.0f} /s")


def job_requests(shots: int) -> list[JobRequest]:
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


def asset(job: Job) -> Asset:
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


async def carry_through(ledger: Ledger, job: Job) -> None:
    generation = Generation(id=job.id, provider="emulator", status=Status.COMPLETED)
    await ledger.jobs.begin_submit(job.id)
    await ledger.jobs.record_submitted(job.id, generation)
    await ledger.jobs.record_completed(job.id, generation)
    await ledger.jobs.record_stored(job.id, asset(job))


async def measure(url: str, shots: int) -> None:
    async with await Ledger.open(url, migrate=True) as ledger:
        print(ledger.url_label)
        wanted = job_requests(shots)
        budgets = [Budget(scope="project", limit_usd=Decimal(10**6)), Budget(scope="month", limit_videos=10**9)]
        with timed(f"claim {shots} at once", shots):
            batch = await ledger.claims.claim(wanted, budgets)
        jobs = [claim.job for claim in batch.claims if claim.job is not None]
        with timed(f"4 steps for each of {shots}", 4 * shots):
            await asyncio.gather(*(carry_through(ledger, job) for job in jobs))
        with timed(f"find_stored {shots}", shots):
            found = await ledger.jobs.find_stored(
                [job_request.fingerprint for job_request in wanted], environment=ENVIRONMENT
            )
        assert len(found) == shots
        with timed(f"claim {shots} that are stored", shots):
            await ledger.claims.claim(wanted, budgets)
        single = job_requests(100)
        with timed("claim 100 one by one", 100):
            for job_request in single:
                await ledger.claims.claim([job_request], budgets)
        for job in await ledger.jobs.unfinished(flow_run_id=single[0].flow_run_id):
            await ledger.jobs.release_reservation(job.id, "benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--shots", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options.url or f"{folder}/ledger.db", options.shots))


if __name__ == "__main__":
    main()
