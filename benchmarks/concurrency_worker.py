"""One worker of the concurrency script: runs a project, or collects, with the settings that it is given.

At its end it says what became of its order, and ends with 0 when every shot is stored, 1 when not.
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
from prefect_video.ledger import Job, Ledger
from prefect_video.pipeline import collect, run_project
from prefect_video.providers.sora import SoraProvider
from prefect_video.session import Session, Settings
from prefect_video.shots import Project
from prefect_video.storage import open_store

PLAN_SLOTS = 50
"""What the plan would allow, so that it is not the plan that limits."""


class Order(BaseModel):
    """What the worker is to do.

    Attributes:
        endpoint: Base URL of the provider.
        ledger: URL of the ledger.
        folder: Where the store (`store/`) and the spool (`spool/`) are.
        project: What to make; None to collect what others have left, waiting for what is still being made.
        settings: Of the session.
    """

    model_config = ConfigDict(frozen=True)

    endpoint: str
    ledger: str
    folder: Path
    project: Project | None = None
    settings: Mapping[str, Any] = {}


@asynccontextmanager
async def open_session(order: Order) -> AsyncIterator[Session]:
    """The session that an order describes."""
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


async def obey(order: Order) -> dict[str, Any]:
    """Does what is ordered, and says what became of it, with the time at which the last shot ended."""
    async with open_session(order) as session:
        if order.project is not None:
            report = (await run_project(session, order.project)).public()
            return {**report, "ended": time.time()}

        @asynccontextmanager
        async def same_session(job: Job) -> AsyncIterator[Session]:
            yield session

        swept = await collect(session.ledger, same_session, wait=True)
        return {"collected": [line.outcome for line in swept], "shots": [], "ended": time.time()}


def work(order: Order, line: Line) -> int:
    """Obeys, says what became of it, and returns the exit status."""
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("prefect_video").setLevel(logging.INFO)
    try:
        done = asyncio.run(obey(order))
    except VideoError as error:
        done = {"error": f"{type(error).__name__}: {error}", "shots": []}
    line.send(done)
    stored = all(shot["status"] == "stored" for shot in done["shots"])
    return 0 if stored and "error" not in done else 1
