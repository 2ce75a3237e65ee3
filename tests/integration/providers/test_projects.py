"""One project, unchanged but for the provider: made once, paid once, whatever becomes of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from prefect_video.downloads.media import check_media, probe
from prefect_video.emulator import Emulator
from prefect_video.ledger import Ledger, State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.projects import Project
from prefect_video.providers.base import Provider
from prefect_video.session import Session, Settings
from prefect_video.storage import open_store
from tests.support.accounts import TestAccount

SessionOpener = Callable[[], AbstractAsyncContextManager[Session]]


@pytest.fixture
def open_session(account: TestAccount, emulator: Emulator, tmp_path: Path) -> SessionOpener:
    """Opens sessions on the account, each as another process would."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Session]:
        provider: Provider = account.open(emulator)
        store = (tmp_path / "store").as_uri()
        session = Session(
            provider=provider,
            ledger=await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}"),
            store=open_store(store),
            store_name=store,
            settings=Settings.from_environment(settle_seconds=0.2, spool=tmp_path / "spool"),
        )
        session.poller = Poller(provider, schedule=PollSchedule(shortest_seconds=0.005), lost_after=2)
        async with session:
            yield session

    return opened


def film(account: TestAccount, **changes: Any) -> Project:
    shots = tuple(account.a_shot(id=f"shot-{n}", prompt=f"a cat, scene {n}", **changes) for n in (1, 2))
    return Project(name="film", shots=shots)


async def made(open_session: SessionOpener, project: Project) -> ProjectReport:
    async with open_session() as session:
        return await run_project(session, project)


def statuses(report: ProjectReport) -> list[str]:
    return [shot.status for shot in report.shots]


async def test_a_project_is_made_once(open_session: SessionOpener, account: TestAccount, emulator: Emulator) -> None:
    project = film(account)
    report = await made(open_session, project)
    assert statuses(report) == ["stored", "stored"]
    for shot, reported in zip(project.shots, report.shots, strict=True):
        check_media(probe(Path(urlsplit(str(reported.uri)).path)), shot)
    assert statuses(await made(open_session, project)) == ["stored", "stored"]
    usage = emulator.usage()
    assert (usage["submitted"], usage["accepted"], usage["billed"], usage["leaked_keys"]) == (2, 2, 2, 0)


async def test_a_submit_that_was_not_answered_is_paid_once_or_held(
    open_session: SessionOpener, account: TestAccount, emulator: Emulator
) -> None:
    emulator.add_fault(operation="submit", kind="error_after", match={"prompt": "scene 1"})
    first = await made(open_session, film(account))
    again = await made(open_session, film(account))
    emulator.wait_until_idle()
    assert emulator.usage()["accepted"] == emulator.usage()["billed"] == 2
    async with open_session() as session:
        held = session.provider.capabilities.lookup == "none"
        states = {job.shot.id: (job.state, job.hold_reason) for job in await session.ledger.jobs.find(limit=None)}
    assert states["shot-2"] == (State.STORED, None)
    if not held:
        assert statuses(first) == statuses(again) == ["stored", "stored"]
        return
    assert statuses(first) == statuses(again) == ["held", "stored"]
    assert states["shot-1"][0] is State.UNKNOWN
    assert "prefect-video resolve" in str(states["shot-1"][1])


async def test_a_generation_that_a_restarted_server_has_forgotten_is_lost_and_held(
    open_session: SessionOpener, account: TestAccount, emulator: Emulator
) -> None:
    emulator.add_fault(operation="retrieve", kind="not_found", times=None, match={"prompt": "scene 1"})
    report = await made(open_session, film(account))
    assert report.shots[0].status in ("failed", "held")
    assert "no longer knows the generation" in str(report.shots[0].error)
    async with open_session() as session:
        states = {job.shot.id: job.state for job in await session.ledger.jobs.find(limit=None)}
    assert states == {"shot-1": State.LOST, "shot-2": State.STORED}
    assert statuses(await made(open_session, film(account)))[1] == "stored"
    assert emulator.usage()["accepted"] == 2
