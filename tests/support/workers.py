"""Workers in processes of their own, which can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.torture_worker import Kill, Order, work
from benchmarks.workers import KILLED, End, Worker
from prefect_video.shots import Project
from tests.support.recovery import RecoveryHarness

__all__ = ["KILLED", "end", "race", "start"]

_HESITANT: Final = {"PREFECT_VIDEO_DOWNLOADS_AT_ONCE": "1", "PREFECT_VIDEO_MAX_IN_FLIGHT": "2"}


def start(harness: RecoveryHarness, project: Project | None, kill: Kill | None = None) -> Worker:
    """Starts a worker; it collects when there is no project."""
    order = Order(
        endpoint=harness.emulator.endpoint,
        ledger=harness.ledger_url,
        folder=harness.folder,
        project=project,
        kill=kill,
        settle_seconds=0.5,
    )
    # One that is to die does little at once, so that rows are left for the next one's moment.
    return Worker(work, order, environment=_HESITANT if kill else None)


def end(worker: Worker) -> End:
    """Waits for a worker's end."""
    try:
        return worker.end()
    finally:
        worker.close()


async def race(harness: RecoveryHarness, projects: Sequence[Project]) -> list[End]:
    """Runs workers side by side."""
    workers = [start(harness, project) for project in projects]
    return list(await asyncio.gather(*(asyncio.to_thread(end, worker) for worker in workers)))
