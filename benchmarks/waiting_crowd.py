"""Process that polls many generations: `python -m benchmarks.waiting_crowd ENDPOINT FOLDER N`.

Prints one JSON object: `megabytes` at the peak over the idle process, `load` as a share of one core while nothing is
due, and the status `requests` in that time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx

from prefect_video.ledger import Ledger
from prefect_video.pipeline.steps import build_project_job_requests, claim_shots, poll, submit
from prefect_video.projects import Project
from prefect_video.providers.sora import SoraProvider
from prefect_video.session import Session, Settings
from prefect_video.shots import Shot
from prefect_video.storage import open_store

SETTLE_SECONDS: Final = 300.0
"""Limit of the time until all generations are polled."""
REST_SECONDS: Final = 10.0

_opening: Final = asyncio.Lock()
"""Alembic migrates only one database at a time in a process."""


@asynccontextmanager
async def open_session(
    endpoint: str, folder: Path, *, at_once: int, speed: float = 1.0, webhook_url: str | None = None
) -> AsyncIterator[Session]:
    """Open a session over the folder's ledger for up to `at_once` generations at a time."""
    provider = SoraProvider(api_key="sk-emulator", endpoint=endpoint, plan="emulator")
    least, most = provider.capabilities.seconds_per_video_second
    provider.capabilities = replace(
        provider.capabilities, concurrency=at_once, seconds_per_video_second=(least / speed, most / speed)
    )
    store = (folder / "store").as_uri()
    async with _opening:
        ledger = await Ledger.open(str(folder / "ledger.db"))
    session = Session(
        provider=provider,
        ledger=ledger,
        store=open_store(store),
        store_name=store,
        settings=Settings(
            max_in_flight=at_once, deadline_seconds=86_400, spool=folder / "spool", webhook_url=webhook_url
        ),
    )
    async with session:
        yield session


async def measure(endpoint: str, folder: Path, waiting: int) -> dict[str, float]:
    """Poll that many generations, and measure the process meanwhile."""
    async with open_session(endpoint, folder, at_once=waiting) as session:
        idle_bytes = read_peak_bytes()
        shots = tuple(Shot(id=f"shot-{number}", prompt=f"a lighthouse, view {number}") for number in range(waiting))
        claims = await claim_shots(
            session,
            await build_project_job_requests(session, Project(name="crowd", shots=shots)),
            budgets=(),
            partial=False,
        )
        reserved = [claim.job for claim in claims if claim.job]
        submitted = await asyncio.gather(*(submit(session, job) for job in reserved))
        polls = [asyncio.create_task(poll(session, job)) for job in submitted]
        async with asyncio.timeout(SETTLE_SECONDS):
            while len(session.poller._targets) < waiting:
                await asyncio.sleep(0.1)
        requests, cpu, clock = await count_requests(endpoint), time.process_time(), time.monotonic()
        await asyncio.sleep(REST_SECONDS)
        load = (time.process_time() - cpu) / (time.monotonic() - clock)
        requests = await count_requests(endpoint) - requests
        assert not any(task.done() for task in polls)
        figures = {"megabytes": (read_peak_bytes() - idle_bytes) / 1e6, "load": load, "requests": requests}
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        return figures


async def count_requests(endpoint: str) -> float:
    """Return the number of status requests that the provider has counted."""
    async with httpx.AsyncClient() as client:
        requests = (await client.get(f"{endpoint.removesuffix('/v1/sora')}/_emulator/usage")).json()["requests"]
    return float(requests.get("retrieve", 0) + requests.get("list", 0))


def read_peak_bytes() -> int:
    """Return the peak memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux a child inherits the peak that getrusage reports; this one is the process's own.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("waiting", type=int)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options.endpoint, options.folder, options.waiting))))


if __name__ == "__main__":
    main()
