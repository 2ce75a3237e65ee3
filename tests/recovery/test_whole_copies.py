"""A whole copy in reach is used before a video is fetched again or bought; by the provider's usage records."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, StoreOutage
from prefect_video.ledger import Job, Ledger, State, StoredMatch
from prefect_video.pipeline import project_run
from prefect_video.pipeline.deletion import settle_deleted
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.ledger_recovery import recover_ledger
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps import store_check, whole_copies
from prefect_video.pipeline.verification import Verification, verify_store
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.storage import Store, open_store
from tests.recovery.test_old_ledgers import back_up, restore
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.s3_server import S3Server
from tests.support.storage_fixtures import bucket, s3

__all__ = ["bucket", "s3"]

FIRST, SECOND = film(a_shot(), name="first"), film(a_shot(), name="second")
FILM = film(a_shot(1), a_shot(2), a_shot(3))


@asynccontextmanager
async def at(harness: RecoveryHarness, store: Path) -> AsyncIterator[Session]:
    """A session whose store is at another address."""
    async with harness.session() as session:
        session.store = open_store(str(store))
        session.store_name = session.store.url
        yield session


async def run_at(harness: RecoveryHarness, store: Path, project: Project, *, insist: bool = False) -> ProjectReport:
    async with at(harness, store) as session:
        return await run_project(session, project, rebuy_missing=insist)


async def verify(harness: RecoveryHarness, store: Path, *, repair: bool = False) -> Verification:
    async with at(harness, store) as session:

        @asynccontextmanager
        async def open_session(_: object) -> AsyncIterator[Session]:
            yield session

        return await verify_store(session.ledger, session.store, open_session=open_session if repair else None)


def file_of(asset: Asset | None) -> Path:
    assert asset is not None
    return Path(asset.uri.removeprefix("file://"))


@pytest.mark.parametrize("end", ["reopen_stored", "record_missing"])
async def test_a_job_that_another_process_changes_while_its_copy_is_read_is_claimed(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    await harness.run(FIRST)
    await harness.run(SECOND)
    (job,) = await harness.rows()
    file_of(job.asset).unlink()
    place_copy = whole_copies.place_copy

    async def place_and_be_late(ledger: Ledger, *others: Any) -> Asset:
        placed = await place_copy(ledger, *others)
        async with harness.ledger() as other:
            await getattr(other.jobs, end)(job.id, "its stored file was missing")
        return placed

    monkeypatch.setattr(whole_copies, "place_copy", place_and_be_late)
    report = await harness.run(FIRST)
    assert statuses(report) == ["stored"]
    assert file_of(report.shots[0].asset).is_file()
    assert [row.state for row in await harness.rows()] == [State.STORED]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("state", ["completed", "lost"])
async def test_a_job_that_another_process_changes_while_its_store_moves_is_claimed(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    await harness.run(FIRST)
    (harness.folder / "store").rename(harness.folder / "moved")
    place_in_store = store_check.place_in_store

    def change_and_place(store: Store, job: Job) -> Asset:
        with closing(sqlite3.connect(harness.folder / "ledger.db")) as database, database:
            database.execute("UPDATE jobs SET state = ?, error_message = 'its file was missing'", (state,))
        return place_in_store(store, job)

    monkeypatch.setattr(store_check, "place_in_store", change_and_place)
    report = await run_at(harness, harness.folder / "moved", FIRST)
    assert statuses(report) == ["stored"]
    assert file_of(report.shots[0].asset).is_file()
    assert [row.state for row in await harness.rows()] == [State.STORED]
    assert harness.paid == (1, 1)


async def test_what_a_later_search_of_a_run_misses_is_not_used(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim meets a damaged row of its own run, and everything is searched again without it."""
    await harness.run(film(a_shot(1)))
    await harness.run(film(a_shot(2, prompt="[fail] it")), flow_run_id="run-1")
    with closing(sqlite3.connect(harness.folder / "ledger.db")) as database, database:
        database.execute("""UPDATE jobs SET shot = '{"half' WHERE state = 'failed'""")
    search, searches = project_run.find_stored, 0

    async def search_and_lose(session: Session, *others: Any, **named: Any) -> list[StoredMatch | None]:
        nonlocal searches
        found = await search(session, *others, **named)
        if (searches := searches + 1) == 1:
            file_of(next(match.job.asset for match in found if match)).unlink()
        return found

    monkeypatch.setattr(project_run, "find_stored", search_and_lose)
    report = await harness.run(film(a_shot(1), a_shot(2, prompt="[fail] it")), flow_run_id="run-1")
    assert searches == 2
    assert statuses(report)[0] == "stored"
    assert file_of(report.shots[0].asset).is_file()
    assert [row.state for row in await harness.rows()] == [State.STORED]


async def forget(harness: RecoveryHarness) -> None:
    """Let the provider forget every generation so far, and none that is made later."""
    for job in await harness.rows():
        match = {"generation_id": job.generation_id}
        harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None, match=match)


def exist(report: ProjectReport) -> bool:
    """Whether every reported file is there."""
    assert statuses(report) == ["stored"] * len(report.shots)
    return all(shot.asset and Path(shot.asset.uri.removeprefix("file://")).is_file() for shot in report.shots)


@pytest.mark.parametrize("project", [FIRST, SECOND], ids=["original", "copy"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
async def test_a_known_copy_takes_the_place_of_a_flawed_original(
    harness: RecoveryHarness, project: Project, damage: str
) -> None:
    await harness.run(FIRST)
    await harness.run(SECOND)
    original = next(video for video in harness.videos if video.parent.name == "first")
    original.write_bytes(b"cut") if damage == "cut" else original.unlink()
    await forget(harness)
    async with harness.session() as session:
        assert [shot.action for shot in (await plan_project(session, project)).shots] == ["cached"]
    report = await harness.run(project)
    assert exist(report)
    assert (report.shots[0].cached, report.cost_usd) == (True, 0)
    assert "its whole copy" in str(report.shots[0].repair)
    for again in (FIRST, SECOND):
        report = await harness.run(again)
        assert exist(report)
        assert (report.shots[0].cached, report.shots[0].repair) == (True, None)
    assert (await verify(harness, harness.folder / "store")).flaws == ()
    assert harness.paid == (1, 1)


async def test_a_copy_with_other_content_is_none(harness: RecoveryHarness) -> None:
    await harness.run(FIRST)
    await harness.run(SECOND)
    original, copy = harness.videos
    copy.write_bytes(b"x" * copy.stat().st_size)
    original.unlink()
    report = await harness.run(FIRST)
    assert "fetched again" in str(report.shots[0].repair)
    assert original.read_bytes() != copy.read_bytes()
    assert harness.paid == (1, 1)


async def test_a_folder_that_was_deleted_and_copied_elsewhere_is_no_outage(harness: RecoveryHarness) -> None:
    first, second = (film(a_shot(1), a_shot(2), a_shot(3), name=name) for name in ("first", "second"))
    await harness.run(first)
    await harness.run(second)
    shutil.rmtree(harness.folder / "store" / "first")
    await forget(harness)
    assert exist(await harness.run(film(a_shot(9), name="third")))
    assert exist(await harness.run(second))
    assert not (harness.folder / "store" / "first").exists(), "what was deleted is made again only for its own project"
    assert exist(await harness.run(first))
    assert harness.paid == (4, 4)


@pytest.mark.parametrize("name", ["film", "renamed"])
async def test_a_folder_that_was_renamed_by_hand_keeps_its_videos(harness: RecoveryHarness, name: str) -> None:
    await harness.run(FILM)
    store = harness.folder / "store"
    (store / "film").rename(store / "renamed")
    await forget(harness)
    report = await harness.run(film(*FILM.shots, name=name))
    assert exist(report)
    assert [shot.cached for shot in report.shots] == [True] * 3
    found = await verify(harness, store)
    assert (found.is_whole, found.flaws, found.assets) == (True, (), 3 if name == "renamed" else 6)
    assert not any(file.endswith(".mp4") for file in found.unknown_files)
    assert harness.paid == (3, 3)


async def test_a_copy_in_another_store_serves_the_first_one(harness: RecoveryHarness) -> None:
    here, there = harness.folder / "A", harness.folder / "B"
    await run_at(harness, here, FILM)
    await run_at(harness, there, FILM)
    for video in here.glob("*/*.mp4"):
        video.unlink()
    await forget(harness)
    assert exist(await run_at(harness, there, FILM))
    repaired = await verify(harness, here, repair=True)
    assert repaired.is_whole, repaired.flaws
    assert exist(await run_at(harness, here, FILM))
    assert len(list(here.glob("*/*.mp4"))) == len(list(there.glob("*/*.mp4"))) == 3
    assert harness.paid == (3, 3)


async def test_a_copy_that_appears_before_the_purchase_prevents_it(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot()))
    (video,) = harness.videos
    kept = video.rename(harness.folder / "kept.mp4")
    # The run sees no copy, and dies; by the next one the provider has forgotten, and the file lies elsewhere.
    await harness.interrupt(film(a_shot()), "downloading")
    await forget(harness)
    kept.rename(harness.folder / "store" / video.name)
    report = await harness.run(film(a_shot()))
    assert exist(report)
    assert "made anew" not in str(report.shots[0].repair)
    assert (report.shots[0].cached, report.cost_usd) == (True, 0)
    assert harness.paid == (1, 1)


async def test_a_recovered_ledger_prefers_the_whole_copy(harness: RecoveryHarness) -> None:
    path = Path(harness.ledger_url.removeprefix("sqlite:///"))
    async with harness.ledger():
        pass
    back_up(path, path.with_name("backup.db"))
    await harness.run(FIRST)
    await harness.run(SECOND)
    next(video for video in harness.videos if video.parent.name == "first").unlink()
    await forget(harness)
    restore(path.with_name("backup.db"), path)
    async with harness.session() as session:
        assert [job.outcome for job in (await recover_ledger(session)).jobs] == ["stored"]
    for project in (FIRST, SECOND):
        assert exist(report := await harness.run(project))
        assert report.shots[0].cached
    assert harness.paid == (1, 1)


async def test_an_older_video_of_the_request_is_not_taken_for_whole_unseen(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot()))
    async with harness.session() as session:
        await run_project(session, film(a_shot()), refresh=True)
    for video in harness.videos:
        video.unlink()
    await forget(harness)
    async with harness.session() as session:
        report = await run_project(session, film(a_shot()), rebuy_missing=True)
    assert exist(report)
    assert harness.paid == (3, 3)


async def test_a_store_that_is_gone_for_good_is_left_behind_when_insisted(harness: RecoveryHarness) -> None:
    gone, used = harness.folder / "A", harness.folder / "B"
    await run_at(harness, gone, FILM)
    shutil.rmtree(gone)
    report = await run_at(harness, used, FILM)
    assert statuses(report) == ["failed"] * 3
    assert "gone for good: a run with --rebuy-missing" in str(report.shots[0].error)
    assert f"prefect-video verify {gone.as_uri()} --repair" in str(report.shots[0].error)
    assert "prefect-video collect" not in str(report.shots[0].error)
    report = await run_at(harness, used, FILM, insist=True)
    assert exist(report)
    assert harness.paid == (3, 3)
    assert [shot.cached for shot in (await run_at(harness, used, FILM)).shots] == [True] * 3
    assert {job.store for job in await harness.rows()} == {used.as_uri()}
    shutil.rmtree(used)
    await forget(harness)
    with pytest.raises(StoreOutage):
        await run_at(harness, used, FILM)
    assert exist(await run_at(harness, harness.folder / "C", FILM, insist=True))
    assert harness.paid == (6, 6)


async def test_on_s3_a_renamed_folder_keeps_its_videos(harness: RecoveryHarness, s3: S3Server, bucket: str) -> None:
    async def run() -> ProjectReport:
        async with harness.session() as session:
            session.store_name = f"s3://{bucket}/films"
            session.store = open_store(f"s3://{bucket}/films/", options=s3.options)
            return await run_project(session, film(a_shot(1), a_shot(2)))

    assert statuses(await run()) == ["stored", "stored"]
    for key in s3.files(bucket):
        if key.startswith("films/film/"):
            target = key.replace("films/film/", "films/old/season-1/")
            s3.client.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": key})
            s3.client.delete_object(Bucket=bucket, Key=key)
    await forget(harness)
    report = await run()
    assert [(shot.status, shot.cached) for shot in report.shots] == [("stored", True)] * 2
    assert {str(shot.uri) for shot in report.shots} <= {f"s3://{bucket}/{key}" for key in s3.files(bucket)}
    assert harness.paid == (2, 2)


@pytest.mark.parametrize("give_up", [True, False])
async def test_a_video_with_a_whole_copy_is_not_given_up(harness: RecoveryHarness, *, give_up: bool) -> None:
    await harness.run(FIRST)
    await harness.run(SECOND)
    original, copy = harness.videos
    async with harness.session() as session:
        with pytest.raises(InvalidInput, match="is whole: nothing was changed"):
            await settle_deleted(session.ledger, session.store, await harness.row(), give_up=give_up)
        original.unlink()
        settled = await settle_deleted(session.ledger, session.store, await harness.row(), give_up=give_up)
    assert (settled.state, settled.asset and settled.asset.uri) == (State.STORED, copy.as_uri())
    assert (await harness.run(FIRST)).shots[0].cached
    assert harness.paid == (1, 1)
