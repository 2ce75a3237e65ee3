"""Workers in processes of their own, which can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.torture_worker import Kill, Order, work
from benchmarks.workers import KILLED, End, Worker
from prefect_video.projects import Project
from tests.support.recovery import RecoveryHarness

__all__ = ["KILLED", "end", "race", "start"]

_ONE_AT_A_TIME: Final = {"PREFECT_VIDEO_DOWNLOADS_AT_ONCE": "1", "PREFECT_VIDEO_MAX_IN_FLIGHT": "2"}


def start(harness: RecoveryHarness, project: Project | None, kill: Kill | None = None) -> Worker:
    """Start a worker; without a project it collects."""
    order = Order(
        endpoint=harness.emulator.endpoint,
        ledger=harness.ledger_url,
        folder=harness.folder,
        project=project,
        kill=kill,
        settle_seconds=0.5,
    )
    # A worker that is to be killed does little at once, so that jobs are left for the next worker's kill.
    return Worker(work, order, environment=_ONE_AT_A_TIME if kill else None)


def end(worker: Worker) -> End:
    """Wait for the end of a worker."""
    try:
        return worker.end()
    finally:
        worker.close()


async def race(harness: RecoveryHarness, projects: Sequence[Project]) -> list[End]:
    """Run workers side by side."""
    workers = [start(harness, project) for project in projects]
    return list(await asyncio.gather(*(asyncio.to_thread(end, worker) for worker in workers)))
