"""Worker of the torture script: runs a project, or collects, and kills itself at a given point.

If it survives, it sends its report and ends with 0 if every shot is stored, else with 1.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from benchmarks.workers import Line
from prefect_video.errors import VideoError
from prefect_video.ledger import Job, Ledger
from prefect_video.pipeline import collect, run_project
from prefect_video.projects import Project
from prefect_video.providers import HttpSettings, Provider
from prefect_video.providers.sora import SoraProvider
from prefect_video.session import Session, SessionEvent, SessionNames, Settings, load_capabilities
from prefect_video.storage import open_store
from tests.support.accounts import account_named

PATIENCE: Final = HttpSettings(submit_timeout_seconds=1.5, read_timeout_seconds=5.0, backoff_seconds=0.1)


class Kill(BaseModel):
    """Point at which the worker kills itself with SIGKILL.

    Attributes:
        event: The event of a job that triggers it.
        skip: Number of such events to survive first.
        delay_seconds: Time between the event and the kill; None to kill within the event.
    """

    model_config = ConfigDict(frozen=True)

    event: SessionEvent
    skip: int = 0
    delay_seconds: float | None = None


class Order(BaseModel):
    """Task of a worker.

    Attributes:
        endpoint: Base URL of the emulator's Sora dialect.
        provider: A name of `tests/support/accounts.py`; None for the Sora dialect of the embedded emulator.
        ledger: URL of the ledger.
        folder: Folder of the store (`store/`) and the spool (`spool/`).
        project: The project to run; None to collect unfinished jobs.
        kill: Point at which the worker kills itself.
        settle_seconds: Time for which an unanswered submit may still be in transit.
        lease_seconds: Time without a heartbeat after which a process of another machine counts as dead.
    """

    model_config = ConfigDict(frozen=True)

    endpoint: str
    provider: str | None = None
    ledger: str
    folder: Path
    project: Project | None = None
    kill: Kill | None = None
    settle_seconds: float = 1.0
    lease_seconds: float = 2.0


@dataclass(frozen=True)
class Address:
    """Address of an emulator in another process, with the emulator's default key."""

    endpoint: str
    key: str = "sk-emulator"
    webhook_secret: str = "whsec_emulator"

    @property
    def url(self) -> str:
        """Root of the API server."""
        return self.endpoint.removesuffix("/v1/sora")


class SelfKill:
    """Observer that kills its own process at a given event."""

    def __init__(self, kill: Kill) -> None:
        self._kill = kill
        self._seen = 0

    def __call__(self, event: SessionEvent, job: Job) -> None:
        """Count the events, and kill the process at the given one."""
        if event != self._kill.event:
            return
        self._seen += 1
        if self._seen != self._kill.skip + 1:
            return
        if self._kill.delay_seconds is None:
            _kill_process()
        timer = threading.Timer(self._kill.delay_seconds or 0.0, _kill_process)
        timer.daemon = True
        timer.start()


def _kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def open_session(order: Order) -> AsyncIterator[Session]:
    """Open the session that an order describes."""
    settings = Settings.from_environment(
        settle_seconds=order.settle_seconds,
        lease_seconds=order.lease_seconds,
        spool=order.folder / "spool",
    )
    store = (order.folder / "store").as_uri()
    provider = await load_capabilities(_open_provider(order))
    # The emulator is far faster than the guide's 6 to 12 seconds for a second of video.
    provider.capabilities = replace(provider.capabilities, seconds_per_video_second=(0.0, 0.2))
    session = Session(
        provider=provider,
        ledger=await Ledger.open(order.ledger, lease_seconds=order.lease_seconds),
        store=open_store(store),
        store_name=store,
        settings=settings,
        observer=SelfKill(order.kill) if order.kill else None,
    )
    async with session:
        yield session


def _open_provider(order: Order) -> Provider:
    address = Address(order.endpoint)
    if order.provider is not None:
        return account_named(order.provider).open(address, settings=PATIENCE)
    return SoraProvider(
        api_key=address.key, endpoint=address.endpoint, plan="emulator", name="emulator", settings=PATIENCE
    )


async def execute(order: Order) -> dict[str, Any]:
    """Execute an order and return the report."""
    async with open_session(order) as session:
        if order.project is not None:
            return (await run_project(session, order.project)).public()

        @asynccontextmanager
        async def same_session(names: SessionNames) -> AsyncIterator[Session]:
            yield session

        collected = await collect(session.ledger, same_session)
        return {"collected": [f"{line.job.shot.id}: {line.outcome}" for line in collected], "shots": []}


def work(order: Order, line: Line) -> int:
    """Execute an order, send the report, and return the exit status."""
    try:
        report = asyncio.run(execute(order))
    except VideoError as error:
        report = {"error": f"{type(error).__name__}: {error}", "shots": []}
    line.send(report)
    stored = all(shot["status"] == "stored" for shot in report["shots"])
    return 0 if stored and "error" not in report else 1
