"""Size of the ledger: bytes that a stored job takes, with its history and indexes.

    python -m benchmarks.ledger_size [--jobs 4000] [URL]

Without a URL a new SQLite file is measured. What the second half of the jobs adds is counted, so that an empty
database weighs nothing. The jobs stay in the ledger: use a database that may be deleted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from typing import Final

from sqlalchemy import text

from benchmarks.ledger import build_job_requests, finish_job
from prefect_video.ledger import Job, JobRequest, Ledger

AT_ONCE: Final = 500
PROMPT: Final = "Aerial shot of a lighthouse at dawn, waves against the rocks, warm light, slow push in. " * 3


async def fill(ledger: Ledger, requests: list[JobRequest]) -> None:
    """Take jobs through to stored files."""
    for begin in range(0, len(requests), AT_ONCE):
        batch = await ledger.claims.claim(requests[begin : begin + AT_ONCE])
        jobs: list[Job] = [claim.job for claim in batch.claims if claim.job is not None]
        await asyncio.gather(*(finish_job(ledger, job) for job in jobs))


async def measure_bytes(ledger: Ledger) -> int:
    """Return the size of the database."""
    database = ledger._database
    async with database.reading() as connection:
        if not database.is_sqlite:
            return int((await connection.execute(text("SELECT pg_database_size(current_database())"))).scalar_one())
        sizes = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in ("page_count", "page_size")
        ]
    return int(sizes[0]) * int(sizes[1])


async def measure(url: str, jobs: int) -> None:
    """Measure one ledger and print the figure."""
    async with await Ledger.open(url, migrate=True) as ledger:
        requests = build_job_requests(jobs)
        requests = [
            request.model_copy(update={"shot": request.shot.model_copy(update={"prompt": PROMPT})})
            for request in requests
        ]
        await fill(ledger, requests[: jobs // 2])
        before = await measure_bytes(ledger)
        await fill(ledger, requests[jobs // 2 :])
        each = (await measure_bytes(ledger) - before) / (jobs - jobs // 2)
        print(f"{ledger.url_label}: {each:,.0f} bytes a stored job, {each / 1000:,.1f} GB a million")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--jobs", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options.url or f"{folder}/ledger.db", options.jobs))


if __name__ == "__main__":
    main()
