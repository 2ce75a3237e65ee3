"""One worker of the torture script: runs a project, or collects, and kills itself where it is told to.

When it lives to the end it says what became of its order, and ends with 0 when every shot is stored, 1 when not.
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
from prefect_video.providers import HttpSettings, Provider
from prefect_video.providers.sora import SoraProvider
from prefect_video.session import Session, SessionEvent, Settings, load_capabilities
from prefect_video.shots import Project
from prefect_video.storage import open_store
from tests.support.accounts import account_named

PATIENCE: Final = HttpSettings(submit_timeout_seconds=1.5, read_timeout_seconds=5.0, backoff_seconds=0.1)


class Kill(BaseModel):
    """Where the worker dies by SIGKILL.

    Attributes:
        moment: At which step of a row.
        skip: How many such steps to live through first.
        delay_seconds: How long after the step; None for within it.
    """

    model_config = ConfigDict(frozen=True)

    moment: SessionEvent
    skip: int = 0
    delay_seconds: float | None = None


class Order(BaseModel):
    """What the worker is to do.

    Attributes:
        endpoint: Base URL of the emulator's Sora dialect.
        provider: A name of `tests/support/accounts.py`; None for the Sora dialect as the embedded emulator speaks it.
        ledger: URL of the ledger.
        folder: Where the store (`store/`) and the spool (`spool/`) are.
        project: What to make; None to collect what others have left.
        kill: Where to die.
        settle_seconds: How long an unanswered submit may still be on its way.
        lease_seconds: After how long without a heartbeat a process of another machine counts as dead.
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
    """An emulator of another process, with its usual key."""

    endpoint: str
    key: str = "sk-emulator"
    webhook_secret: str = "whsec_emulator"

    @property
    def url(self) -> str:
        """Root of the API server."""
        return self.endpoint.removesuffix("/v1/sora")


class Executioner:
    """An observer that ends its own process without warning."""

    def __init__(self, kill: Kill) -> None:
        self._kill = kill
        self._seen = 0

    def __call__(self, moment: SessionEvent, job: Job) -> None:
        """Counts the steps and strikes at the one that was named."""
        if moment != self._kill.moment:
            return
        self._seen += 1
        if self._seen != self._kill.skip + 1:
            return
        if self._kill.delay_seconds is None:
            _die()
        timer = threading.Timer(self._kill.delay_seconds or 0.0, _die)
        timer.daemon = True
        timer.start()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@asynccontextmanager
async def open_session(order: Order) -> AsyncIterator[Session]:
    """The session that an order describes."""
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
        observer=Executioner(order.kill) if order.kill else None,
    )
    async with session:
        yield session


def _open_provider(order: Order) -> Provider:
    at = Address(order.endpoint)
    if order.provider is not None:
        return account_named(order.provider).open(at, settings=PATIENCE)
    return SoraProvider(api_key=at.key, endpoint=at.endpoint, plan="emulator", name="emulator", settings=PATIENCE)


async def obey(order: Order) -> dict[str, Any]:
    """Does what is ordered, and says what became of it."""
    async with open_session(order) as session:
        if order.project is not None:
            return (await run_project(session, order.project)).public()

        @asynccontextmanager
        async def same_session(job: Job) -> AsyncIterator[Session]:
            yield session

        swept = await collect(session.ledger, same_session)
        return {"collected": [f"{line.job.shot.id}: {line.outcome}" for line in swept], "shots": []}


def work(order: Order, line: Line) -> int:
    """Obeys, says what became of it, and returns the exit status."""
    try:
        done = asyncio.run(obey(order))
    except VideoError as error:
        done = {"error": f"{type(error).__name__}: {error}", "shots": []}
    line.send(done)
    stored = all(shot["status"] == "stored" for shot in done["shots"])
    return 0 if stored and "error" not in done else 1
