"""Recovery harness: a provider, a ledger and a store that a test may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from prefect_video.emulator import Emulator
from prefect_video.ledger import Budget, Job, Ledger
from prefect_video.pipeline.collect import CollectedJob, collect
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.projects import Project
from prefect_video.providers.base import Provider
from prefect_video.providers.http import HttpSettings
from prefect_video.providers.sora.provider import SoraProvider
from prefect_video.session import Observer, Session, SessionEvent, SessionNames, Settings
from prefect_video.shots import Shot
from prefect_video.storage import open_store

QUICK: Final = HttpSettings(backoff_seconds=0.01, backoff_limit_seconds=0.05)
"""Quick to repeat, and as patient as users are with a submit: an answer that a slow machine delays is no lost one."""
POLLS: Final = PollSchedule(shortest_seconds=0.005)


@dataclass(frozen=True)
class RecoveryHarness:
    """The emulator, the folder and the ledger of one test."""

    emulator: Emulator
    folder: Path
    ledger_url: str

    @asynccontextmanager
    async def session(
        self,
        *,
        observer: Observer | None = None,
        budgets: Sequence[Budget] = (),
        kind: Callable[..., Provider] = SoraProvider,
        http: HttpSettings = QUICK,
        **settings: Any,
    ) -> AsyncIterator[Session]:
        """Open a session of its own, as another process would."""
        store = (self.folder / "store").as_uri()
        provider = kind(
            api_key=self.emulator.key, endpoint=self.emulator.endpoint, plan="emulator", name="emulator", settings=http
        )
        # The emulator is far faster than the guide's 6 to 12 seconds for a second of video.
        provider.capabilities = replace(provider.capabilities, seconds_per_video_second=(0.0, 0.2))
        values = {"settle_seconds": 0.4, "lease_seconds": 2.0, "spool": self.folder / "spool", **settings}
        session = Session(
            provider=provider,
            ledger=await Ledger.open(self.ledger_url, lease_seconds=values["lease_seconds"]),
            store=open_store(store),
            store_name=store,
            budgets=tuple(budgets),
            settings=Settings.from_environment(**values),
            observer=observer,
        )
        session.poller = Poller(provider, schedule=POLLS)
        async with session:
            yield session

    async def run(self, requested: Project | Shot, *, flow_run_id: str | None = None, **session: Any) -> ProjectReport:
        """Run a project, in a session of its own."""
        async with self.session(**session) as opened:
            return await run_project(opened, as_project(requested), flow_run_id=flow_run_id)

    async def interrupt(self, requested: Project | Shot, moment: SessionEvent, **session: Any) -> None:
        """Run a project, and cancel the run at an event of the first job that gets there."""
        run: asyncio.Task[ProjectReport]

        def observer(reported: SessionEvent, job: Job) -> None:
            if reported == moment:
                run.cancel()

        run = asyncio.create_task(self.run(requested, observer=observer, **session))
        await asyncio.wait([run])
        assert run.cancelled()

    async def collect(self, **options: Any) -> list[CollectedJob]:
        """Collect once, in a session of its own."""
        async with self.session() as opened:
            return await collect_with(opened, **options)

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """Open the ledger alone."""
        async with await Ledger.open(self.ledger_url) as opened:
            yield opened

    async def rows(self) -> list[Job]:
        """Return all jobs, oldest first."""
        async with self.ledger() as ledger:
            return list(reversed(await ledger.jobs.find(limit=None)))

    async def row(self) -> Job:
        """Return the only job."""
        (job,) = await self.rows()
        return job

    @property
    def paid(self) -> tuple[int, int]:
        """Generations accepted and billed, by the provider's usage records, once the provider is idle."""
        self.emulator.wait_until_idle()
        usage = self.emulator.usage()
        return usage["accepted"], usage["billed"]

    @property
    def videos(self) -> list[Path]:
        """Videos that are visible in the store, without those that were rejected."""
        visible = (self.folder / "store").glob("*/[!.]*.mp4")
        return sorted(path for path in visible if not path.name.endswith(".rejected.mp4"))

    @property
    def rejected(self) -> list[Path]:
        """Rejected videos that are kept in the store."""
        return sorted((self.folder / "store").glob("*/*.rejected.mp4"))


async def collect_with(session: Session, **options: Any) -> list[CollectedJob]:
    """Collect once, with an open session."""

    @asynccontextmanager
    async def reuse_session(_: SessionNames) -> AsyncIterator[Session]:
        yield session

    return await collect(session.ledger, reuse_session, **options)


def as_project(requested: Project | Shot) -> Project:
    """Return a project; a shot becomes a project of its own."""
    return requested if isinstance(requested, Project) else film(requested)


def film(*shots: Shot, name: str = "film", **options: Any) -> Project:
    """Build a project of shots."""
    return Project(name=name, shots=shots, **options)


def a_shot(number: int = 1, **changes: Any) -> Shot:
    """Build a short shot."""
    values: dict[str, Any] = {
        "id": f"shot-{number}",
        "prompt": f"a cat on a roof, scene {number}",
        "duration": 1,
        "resolution": "480p",
    }
    return Shot(**{**values, **changes})


def statuses(report: ProjectReport) -> list[str]:
    """Return the status of each shot."""
    return [shot.status for shot in report.shots]
