"""Worker of the concurrency script: runs a project, or collects, with given settings.

It sends its report and ends with 0 if every shot is stored, else with 1.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.torture_worker import PATIENCE
from benchmarks.workers import Line
from prefect_video.errors import VideoError
from prefect_video.ledger import Ledger
from prefect_video.pipeline import collect, run_project
from prefect_video.projects import Project
from prefect_video.providers.sora import SoraProvider
from prefect_video.session import Session, SessionNames, Settings
from prefect_video.storage import open_store

PLAN_SLOTS = 50
"""Limit of the provider's plan: above the account's, so that only the account's limits."""


class Order(BaseModel):
    """Task of a worker.

    Attributes:
        endpoint: Base URL of the provider.
        ledger: URL of the ledger.
        folder: Folder of the store (`store/`) and the spool (`spool/`).
        project: The project to run; None to collect unfinished jobs and wait for those in progress.
        settings: Settings of the session.
    """

    model_config = ConfigDict(frozen=True)

    endpoint: str
    ledger: str
    folder: Path
    project: Project | None = None
    settings: Mapping[str, Any] = {}


@asynccontextmanager
async def open_session(order: Order) -> AsyncIterator[Session]:
    """Open the session that an order describes."""
    settings = Settings.from_environment(spool=order.folder / "spool", **order.settings)
    store = (order.folder / "store").as_uri()
    provider = SoraProvider(
        api_key="sk-emulator", endpoint=order.endpoint, plan="emulator", name="emulator", settings=PATIENCE
    )
    # The emulator is far faster than the guide's 6 to 12 seconds for a second of video.
    provider.capabilities = replace(provider.capabilities, concurrency=PLAN_SLOTS, seconds_per_video_second=(0.0, 1.0))
    session = Session(
        provider=provider,
        ledger=await Ledger.open(order.ledger, lease_seconds=settings.lease_seconds),
        store=open_store(store),
        store_name=store,
        settings=settings,
    )
    async with session:
        yield session


async def execute(order: Order) -> dict[str, Any]:
    """Execute an order and return the report, with the time at which the last shot ended."""
    async with open_session(order) as session:
        if order.project is not None:
            report = (await run_project(session, order.project)).public()
            return {**report, "ended": time.time()}

        @asynccontextmanager
        async def same_session(names: SessionNames) -> AsyncIterator[Session]:
            yield session

        collected = await collect(session.ledger, same_session, wait=True)
        return {"collected": [line.outcome for line in collected], "shots": [], "ended": time.time()}


def work(order: Order, line: Line) -> int:
    """Execute an order, send the report, and return the exit status."""
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("prefect_video").setLevel(logging.INFO)
    try:
        report = asyncio.run(execute(order))
    except VideoError as error:
        report = {"error": f"{type(error).__name__}: {error}", "shots": []}
    line.send(report)
    stored = all(shot["status"] == "stored" for shot in report["shots"])
    return 0 if stored and "error" not in report else 1
