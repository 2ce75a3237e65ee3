"""A store that is empty, elsewhere or damaged is no licence to pay; by the provider's usage records."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from prefect_video.errors import StoreError, StoreOutage
from prefect_video.ledger import State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.verification import verify_store
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.storage import copy_video, open_store
from prefect_video.storage.marker import STORE_MARKER
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenHarness

FILM = film(a_shot(1), a_shot(2), a_shot(3))


async def stored(harness: RecoveryHarness) -> Path:
    """A film of three stored shots; its store."""
    assert statuses(await harness.run(FILM)) == ["stored"] * 3
    assert harness.paid == (3, 3)
    return harness.folder / "store"


async def insist(harness: RecoveryHarness, project: Project = FILM, *, refresh: bool = False) -> ProjectReport:
    async with harness.session() as session:
        return await run_project(session, project, refresh=refresh, rebuy_missing=not refresh)


async def refused(harness: RecoveryHarness, project: Project = FILM) -> str:
    """Why a run is refused; nothing may have been bought, moved or written by it."""
    before = harness.emulator.usage(), [job.state for job in await harness.rows()]
    with pytest.raises(StoreOutage) as raised:
        await harness.run(project)
    async with harness.session() as session:
        with pytest.raises(StoreOutage):
            await plan_project(session, project)
    assert (harness.emulator.usage(), [job.state for job in await harness.rows()]) == before
    assert not raised.value.retryable
    assert "Nothing was bought" in str(raised.value)
    return str(raised.value)


async def test_the_first_video_marks_the_store_and_the_ledger_knows_it(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    store_id = json.loads((store / STORE_MARKER).read_text())["store_id"]
    assert {job.store_id for job in await harness.rows()} == {store_id}
    async with harness.ledger() as ledger:
        assert await ledger.stores.store_ids(store.as_uri()) == {store_id}


async def test_a_mount_point_without_its_volume_is_an_outage(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    store.rename(volume := harness.folder / "volume")
    store.mkdir()
    reason = await refused(harness)
    assert "has no marker" in reason
    assert "--rebuy-missing" in reason
    assert "verify" in reason
    # Another project would write into the empty folder: that is refused too.
    await refused(harness, film(a_shot(9), name="other"))
    assert list(store.iterdir()) == []

    store.rmdir()
    volume.rename(store)
    report = await harness.run(FILM)
    assert [shot.cached for shot in report.shots] == [True] * 3
    assert harness.paid == (3, 3)


async def test_a_volume_that_is_not_even_a_folder_is_an_outage(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    store.rename(harness.folder / "volume")
    await refused(harness)
    assert not store.exists()
    assert harness.paid == (3, 3)


async def test_another_stores_folder_is_an_outage(harness: RecoveryHarness, open_harness: OpenHarness) -> None:
    store = await stored(harness)
    shutil.move(store, harness.folder / "volume")
    other = open_harness(ledger_url=f"sqlite:///{harness.folder / 'other.db'}")
    await other.run(film(a_shot(7), name="theirs"))
    assert "is another one" in await refused(harness)
    assert harness.paid == (3, 3)


async def test_one_file_that_was_removed_is_fetched_again_and_reported(harness: RecoveryHarness) -> None:
    await stored(harness)
    harness.videos[0].unlink()
    report = await harness.run(FILM)
    assert statuses(report) == ["stored"] * 3
    assert [shot.repair is not None for shot in report.shots] == [True, False, False]
    assert "missing; it was fetched again" in str(report.shots[0].repair)
    assert report.shots[0].public()["repair"] == report.shots[0].repair
    assert report.cost_usd == 0
    assert len(harness.videos) == 3
    assert [shot.cached for shot in (await harness.run(FILM)).shots] == [True] * 3
    assert harness.paid == (3, 3)


async def test_one_file_that_was_cut_short_is_fetched_again(harness: RecoveryHarness) -> None:
    await stored(harness)
    whole = harness.videos[0].read_bytes()
    harness.videos[0].write_bytes(whole[:1000])
    report = await harness.run(FILM)
    assert "damaged (1,000 of" in str(report.shots[0].repair)
    assert harness.videos[0].read_bytes() == whole
    assert harness.paid == (3, 3)


async def test_a_video_that_the_provider_has_forgotten_is_made_anew_and_reported(
    harness: RecoveryHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await stored(harness)
    job = (await harness.rows())[0]
    harness.videos[0].unlink()
    harness.emulator.add_fault(
        operation="retrieve", kind="not_found", times=None, match={"generation_id": job.generation_id}
    )
    report = await harness.run(FILM)
    assert statuses(report) == ["stored"] * 3
    assert "no longer has it: it was made anew" in str(report.shots[0].repair)
    assert "made anew" in caplog.text
    assert report.shots[0].cost_usd == report.cost_usd > 0
    assert harness.paid == (4, 4)


async def test_a_provider_that_does_not_answer_is_no_reason_to_buy(harness: RecoveryHarness) -> None:
    await stored(harness)
    harness.videos[0].unlink()
    harness.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    assert statuses(await harness.run(FILM)) == ["failed", "stored", "stored"]
    harness.emulator.clear_faults()
    assert statuses(await harness.run(FILM)) == ["stored"] * 3
    assert harness.paid == (3, 3)


async def test_a_run_that_dies_while_it_fetches_again_is_finished_by_collect(harness: RecoveryHarness) -> None:
    await stored(harness)
    harness.videos[0].unlink()
    await harness.interrupt(FILM, "downloading")
    assert len(harness.videos) == 2
    await harness.collect()
    assert len(harness.videos) == 3
    assert {job.state for job in await harness.rows()} == {State.STORED}
    assert harness.paid == (3, 3)


async def test_several_files_that_are_missing_at_once_are_an_outage(harness: RecoveryHarness) -> None:
    await stored(harness)
    harness.videos[0].unlink()
    harness.videos[0].write_bytes(b"cut")
    reason = await refused(harness)
    assert "2 stored videos are missing or damaged at once" in reason
    # Requested one by one they are no fewer.
    await refused(harness, film(a_shot(1)))
    assert harness.paid == (3, 3)


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_run_that_insists_gets_the_rest_fetched_or_bought(harness: RecoveryHarness, *, forgotten: bool) -> None:
    store = await stored(harness)
    shutil.rmtree(store)
    store.mkdir()
    if forgotten:
        harness.emulator.add_fault(operation="retrieve", kind="not_found", times=15)
    report = await insist(harness)
    assert statuses(report) == ["stored"] * 3
    assert harness.paid == ((6, 6) if forgotten else (3, 3))
    paid = harness.paid
    assert [shot.cached for shot in (await harness.run(FILM)).shots] == [True] * 3
    assert harness.paid == paid


async def test_a_refresh_insists_too(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    shutil.rmtree(store)
    store.mkdir()
    assert statuses(await insist(harness, refresh=True)) == ["stored"] * 3
    assert harness.paid == (6, 6)
    assert [shot.cached for shot in (await harness.run(FILM)).shots] == [True] * 3
    assert harness.paid == (6, 6)


async def test_a_volume_that_goes_away_during_a_run_gets_no_second_store(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    async with harness.session() as session:
        made = Project(name="film", shots=(a_shot(4),))

        def unmount(moment: str, _: object) -> None:
            if moment == "downloaded":
                store.rename(harness.folder / "volume")
                store.mkdir()

        session.observer = unmount
        report = await run_project(session, made)
    assert statuses(report) == ["failed"]
    assert list(store.iterdir()) == []
    store.rmdir()
    (harness.folder / "volume").rename(store)
    await harness.collect()
    assert len(harness.videos) == 4
    assert harness.paid == (4, 4)


async def test_a_copy_that_was_cut_short_is_copied_again(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(), name="first"))
    for _ in range(2):
        assert statuses(await harness.run(film(a_shot(), name="second"))) == ["stored"]
        copy = next(path for path in harness.videos if path.parent.name == "second")
        whole = next(path for path in harness.videos if path.parent.name == "first").read_bytes()
        assert copy.read_bytes() == whole
        copy.write_bytes(whole[:100])
    assert harness.paid == (1, 1)


async def test_a_marker_that_cannot_be_read_stops_the_run(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    (store / STORE_MARKER).write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        await harness.run(FILM)
    assert harness.paid == (3, 3)


async def test_a_store_that_moved_with_its_marker_is_the_same_store(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    async with harness.session() as session:
        moved = open_store((harness.folder / "moved").as_uri())
        store.rename(harness.folder / "moved")
        assert await moved.read_identity() in await session.ledger.stores.store_ids(store.as_uri())


@asynccontextmanager
async def at(harness: RecoveryHarness, store: Path) -> AsyncIterator[Session]:
    """A session whose store is at another address."""
    async with harness.session() as session:
        session.store = open_store(str(store))
        session.store_name = session.store.url
        yield session


async def run_at(harness: RecoveryHarness, store: Path, project: Project = FILM) -> ProjectReport:
    async with at(harness, store) as session:
        return await run_project(session, project)


def existing(report: ProjectReport) -> list[bool]:
    """Whether the file of each shot is there."""
    return [shot.asset is not None and Path(shot.asset.uri.removeprefix("file://")).exists() for shot in report.shots]


@pytest.mark.parametrize("marked", [True, False])
async def test_a_store_that_moved_keeps_every_video(harness: RecoveryHarness, *, marked: bool) -> None:
    store = await stored(harness)
    moved = store.rename(harness.folder / "moved")
    if not marked:
        (moved / STORE_MARKER).unlink()
    before = {path.name: path.read_bytes() for path in moved.glob("*/*.mp4")}
    for _ in range(2):
        report = await run_at(harness, moved)
        assert statuses(report) == ["stored"] * 3
        assert existing(report) == [True] * 3
        assert {path.name: path.read_bytes() for path in moved.glob("*/*.mp4")} == before
    if marked:
        assert {Path((job.asset and job.asset.uri) or "").parent.parent.name for job in await harness.rows()} == {
            "moved"
        }
    async with at(harness, moved) as session:
        assert (await verify_store(session.ledger, session.store)).flaws == ()
    assert harness.paid == (3, 3)


async def test_a_link_to_a_store_is_the_same_store(harness: RecoveryHarness) -> None:
    store = harness.folder / "store"
    store.mkdir()
    link = harness.folder / "link"
    link.symlink_to(store)
    for path in (link, store, link):
        report = await run_at(harness, path)
        assert existing(report) == [True] * 3
        assert len(harness.videos) == 3
    assert [shot.cached for shot in report.shots] == [True] * 3
    store.rename(harness.folder / "volume")
    store.mkdir()
    for path in (link, store):
        with pytest.raises(StoreOutage):
            await run_at(harness, path, film(a_shot(9), name="other"))
    assert harness.paid == (3, 3)


async def test_rows_of_a_linked_spelling_are_still_hits(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    link = harness.folder / "link"
    link.symlink_to(store)
    database = sqlite3.connect(harness.folder / "ledger.db")
    with database:
        for table, column in (("jobs", "asset"), ("jobs", "store"), ("stores", "url")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (store.as_uri(), link.as_uri()))
    database.close()
    for path in (store, link):
        report = await run_at(harness, path)
        assert [shot.cached for shot in report.shots] == [True] * 3
        async with at(harness, path) as session:
            assert (await verify_store(session.ledger, session.store)).flaws == ()
    assert len(harness.videos) == 3
    store.rename(harness.folder / "volume")
    store.mkdir()
    with pytest.raises(StoreOutage, match="has no marker"):
        await run_at(harness, store, film(a_shot(9), name="other"))
    assert harness.paid == (3, 3)


@pytest.mark.parametrize("sidecars", [True, False])
async def test_a_file_at_the_target_that_is_the_original_is_never_deleted(
    harness: RecoveryHarness, *, sidecars: bool
) -> None:
    store = await stored(harness)
    async with harness.ledger() as ledger:
        identity = ledger.identity
    moved = store.rename(harness.folder / "moved")
    if not sidecars:
        for sidecar in moved.glob("*/*.json"):
            sidecar.unlink()
    for job in await harness.rows():
        assert job.asset
        copied = await copy_video(open_store(str(moved)), job.asset, draft=asset_draft(job, identity))
        assert copied.uri == job.asset.uri.replace(store.as_uri(), moved.as_uri())
    assert len(list(moved.glob("*/*.mp4"))) == len(list(moved.glob("*/*.json"))) == 3


async def test_other_content_at_the_target_stays_until_the_original_is_fetched(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    async with harness.ledger() as ledger:
        identity = ledger.identity
    job = (await harness.rows())[0]
    assert job.asset
    copy = harness.folder / "other" / "film" / job.asset.uri.rpartition("/")[2]
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"cut")
    original = harness.folder / "store" / "film" / copy.name
    whole = original.read_bytes()
    for content in (None, whole[:-1], b"x" * len(whole)):
        original.unlink(missing_ok=True)
        if content is not None:
            original.write_bytes(content)
        with pytest.raises(StoreError, match="nothing was copied or removed"):
            await copy_video(open_store(str(copy.parent.parent)), job.asset, draft=asset_draft(job, identity))
        assert copy.read_bytes() == b"cut"
    original.write_bytes(whole)
    await copy_video(open_store(str(copy.parent.parent)), job.asset, draft=asset_draft(job, identity))
    assert copy.read_bytes() == whole
    assert store.exists()
    assert harness.paid == (3, 3)


async def forget(harness: RecoveryHarness) -> None:
    """Let the provider forget every generation so far, and none that is made later."""
    for job in await harness.rows():
        harness.emulator.add_fault(
            operation="retrieve", kind="not_found", times=None, match={"generation_id": job.generation_id}
        )


async def test_missing_files_asked_for_one_at_a_time_are_an_outage(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1), a_shot(2), a_shot(3)))
    await harness.run(film(*(a_shot(number) for number in range(4, 25))))
    for video in harness.videos:
        if video.name.startswith(("shot-1.", "shot-2.", "shot-3.")):
            video.unlink()
    await forget(harness)
    for number in (1, 2, 3):
        await refused(harness, film(a_shot(number)))
    assert harness.paid == (24, 24)
    assert len(harness.videos) == 21


async def test_a_volume_that_is_half_restored_is_an_outage_for_every_project(harness: RecoveryHarness) -> None:
    projects = [film(a_shot(number), name=f"project-{number}") for number in range(1, 6)]
    for project in projects:
        await harness.run(project)
    for video in harness.videos:
        video.rename(harness.folder / video.name)
    await forget(harness)
    for project in projects:
        assert "project-5/shot-5 missing" in await refused(harness, project)
    assert harness.paid == (5, 5)


async def test_files_that_go_missing_before_a_purchase_prevent_it(harness: RecoveryHarness) -> None:
    await stored(harness)
    first, *others = harness.videos
    whole = first.read_bytes()
    first.unlink()
    # The run sees one missing file, and dies; the volume fails further; the provider forgets.
    await harness.interrupt(FILM, "downloading")
    for video in others:
        video.rename(harness.folder / video.name)
    await forget(harness)
    report = await harness.run(film(a_shot(1)))
    assert statuses(report) == ["failed"]
    assert "that is an outage" in str(report.shots[0].error)
    assert {job.state for job in await harness.rows()} == {State.STORED}
    first.write_bytes(whole)
    for video in others:
        (harness.folder / video.name).rename(video)
    assert [shot.cached for shot in (await harness.run(FILM)).shots] == [True] * 3
    assert harness.paid == (3, 3)


async def test_an_outage_of_another_store_names_that_one(harness: RecoveryHarness) -> None:
    store = await stored(harness)
    other = harness.folder / "other"
    await run_at(harness, other, film(a_shot(9), name="theirs"))
    for video in harness.videos:
        video.unlink()
    with pytest.raises(StoreOutage) as raised:
        await run_at(harness, other)
    assert f"the store {store.as_uri()}: 3 stored" in str(raised.value)
    assert f"verify {store.as_uri()} --repair" in str(raised.value)
    assert other.as_uri() not in str(raised.value)
    assert harness.paid == (4, 4)
    assert len(list(other.glob("*/*.mp4"))) == 1


async def test_an_outage_of_a_saved_store_names_its_block(harness: RecoveryHarness) -> None:
    await stored(harness)
    for video in harness.videos:
        video.unlink()
    async with harness.session() as session:
        session.store_name = "video-store/films"
        with pytest.raises(StoreOutage, match="verify video-store/films --repair"):
            await run_project(session, FILM)
    assert harness.paid == (3, 3)
