"""Runs that submit and leave, and the sweep that finishes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from prefect_video.gallery import load_manifest
from prefect_video.ledger import State
from prefect_video.pipeline.collect import collect
from prefect_video.pipeline.entry_points import run_project
from prefect_video.session import Session, SessionNames
from tests.support.service_fixtures import open_environment_session, run_service
from tests.unit.service.test_webhooks import project


@asynccontextmanager
async def open_for_job(_: SessionNames) -> AsyncIterator[Session]:
    """Open the environment's session, which every job of these tests belongs to."""
    async with await open_environment_session() as session:
        yield session


async def take_statuses(session: Session) -> list[str]:
    manifest = await load_manifest(session.store, "film")
    assert manifest is not None
    return [take.status for take in manifest.takes]


async def test_a_page_that_cannot_be_written_fails_no_collection(
    environment: Path, provider: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with await open_environment_session() as session:
        await run_project(session, project("one", "two"), wait=False)
        provider.wait_until_idle()
        page = Path(session.store.url.removeprefix("file://"), "film", "index.html")
        (page / "in the way").mkdir(parents=True)
        collected = await collect(session.ledger, open_for_job)
        assert {line.outcome for line in collected} == {"stored"}
        (warning,) = [record.message for record in caplog.records if "page could not be written" in record.message]
        assert f"prefect-video gallery film --store {session.store.url}" in warning
        (page / "in the way").rmdir()
        page.rmdir()
        await collect(session.ledger, open_for_job)
        assert not page.exists(), "a collection that changes nothing writes no page"
    assert provider.usage()["billed"] == 2


async def test_a_run_leaves_and_the_sweep_finishes(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:4", render="plate")) as provider:
        monkeypatch.setenv("SORA_API_ENDPOINT", provider.endpoint)
        async with run_service() as service, await open_environment_session(service.url) as session:
            report = await run_project(session, project("one", "two", "three"), wait=False)
            assert [shot.status for shot in report.shots] == ["in_flight"] * 3
            assert report.failures == ()
            assert "3 in flight" in report.summary()
            assert service.announced == [], "it did not wait for them"
            again = await run_project(session, project("one", "two", "three"), wait=False)
            assert [shot.status for shot in again.shots] == ["in_flight"] * 3
            announced = await service.wait_for_announcements(3)
            assert {job.state for job, _ in announced} == {State.COMPLETED}
            job = announced[0][0]
            assert await session.ledger.events.pop_generation(job.account, job.generation_id or "") is None
            collected = await collect(session.ledger, open_for_job)
            assert [line.outcome for line in collected] == ["stored"] * 3
            assert await take_statuses(session) == ["stored"] * 3, "the page follows"
            done = await run_project(session, project("one", "two", "three"))
            assert [shot.cached for shot in done.shots] == [True] * 3
        assert provider.usage()["billed"] == 3
        # Once by the receiver and once for a fresh link: none is kept while no one waits for it.
        assert provider.usage()["polled"] == 6


async def test_more_than_the_account_takes_is_seen_through_until_the_last_is_sent(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emulator(EmulatorSettings(port=0, times="fixed:0.5", render="plate", capacity=2)) as provider:
        monkeypatch.setenv("SORA_API_ENDPOINT", provider.endpoint)
        monkeypatch.setenv("PREFECT_VIDEO_MAX_IN_FLIGHT", "2")
        async with await open_environment_session() as session:
            report = await run_project(session, project("one", "two", "three", "four", "five"), wait=False)
            statuses = [shot.status for shot in report.shots]
            assert statuses.count("stored") >= 3
            assert set(statuses) == {"stored", "in_flight"}
            provider.wait_until_idle()
            await collect(session.ledger, open_for_job)
        assert provider.usage()["billed"] == 5


async def test_what_depends_on_others_is_sent_too(environment: Path, provider: Emulator) -> None:
    data = project("one", "two").model_dump(by_alias=True)
    data["shots"][1]["depends_on"] = ["s0"]
    async with await open_environment_session() as session:
        report = await run_project(session, type(project("x")).model_validate(data), wait=False)
        assert report.shots[0].status == "stored"
        assert report.shots[1].status in ("in_flight", "stored")
        provider.wait_until_idle()
        await collect(session.ledger, open_for_job)
    assert provider.usage()["billed"] == 2


async def test_a_failure_on_the_way_out_is_reported(environment: Path, provider: Emulator) -> None:
    async with await open_environment_session() as session:
        report = await run_project(session, project("[policy] one", "two"), wait=False)
        assert report.shots[0].status == "failed"
        assert report.shots[1].status in ("in_flight", "stored")
        assert len(report.failures) == 1
