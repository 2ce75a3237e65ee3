"""Workers in processes of their own, which can be killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.torture_worker import Kill, Order
from prefect_video.shots import Project
from tests.recovery.workshop import Workshop

ROOT: Final = Path(__file__).parents[2]
KILLED: Final = -9
_HESITANT: Final = {"PREFECT_VIDEO_DOWNLOADS_AT_ONCE": "1", "PREFECT_VIDEO_MAX_IN_FLIGHT": "2"}


class End(NamedTuple):
    """How a worker ended: its exit status, negative for a signal, and what it said last."""

    status: int
    said: dict[str, Any]


def start(workshop: Workshop, project: Project | None, kill: Kill | None = None) -> subprocess.Popen[str]:
    """Starts a worker; it collects when there is no project."""
    order = Order(
        endpoint=workshop.emulator.endpoint,
        ledger=workshop.ledger_url,
        folder=workshop.folder,
        project=project,
        kill=kill,
        settle_seconds=0.5,
    )
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.torture_worker", order.model_dump_json()],
        cwd=ROOT,
        # One that is to die does little at once, so that rows are left for the next one's moment.
        env=os.environ | (_HESITANT if kill else {}),
        stdout=subprocess.PIPE,
        text=True,
    )


def end(worker: subprocess.Popen[str]) -> End:
    """Waits for a worker's end."""
    try:
        words, _ = worker.communicate(timeout=150)
    finally:
        worker.kill()
    return End(worker.returncode, json.loads(words) if words else {})


async def race(workshop: Workshop, projects: Sequence[Project]) -> list[End]:
    """Runs workers side by side."""
    workers = [start(workshop, project) for project in projects]
    return list(await asyncio.gather(*(asyncio.to_thread(end, worker) for worker in workers)))
