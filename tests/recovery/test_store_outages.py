"""A store that is empty, elsewhere or damaged is no licence to pay; by the provider's books."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prefect_video.errors import StoreError, StoreOutage
from prefect_video.ledger import State
from prefect_video.pipeline.plan import plan_project
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.shots import Project
from prefect_video.storage import open_store
from prefect_video.storage.marker import STORE_MARKER
from tests.support.recovery import Workshop, a_shot, film, statuses
from tests.support.recovery_fixtures import OpenWorkshop

FILM = film(a_shot(1), a_shot(2), a_shot(3))


async def stored(workshop: Workshop) -> Path:
    """A film of three stored shots; its store."""
    assert statuses(await workshop.run(FILM)) == ["stored"] * 3
    assert workshop.paid == (3, 3)
    return workshop.folder / "store"


async def insist(workshop: Workshop, project: Project = FILM, *, refresh: bool = False) -> ProjectReport:
    async with workshop.studio() as studio:
        return await run_project(studio, project, refresh=refresh, rebuy_missing=not refresh)


async def refused(workshop: Workshop, project: Project = FILM) -> str:
    """Why a run is refused; nothing may have been bought, moved or written by it."""
    before = workshop.emulator.books(), [row.state for row in await workshop.rows()]
    with pytest.raises(StoreOutage) as told:
        await workshop.run(project)
    async with workshop.studio() as studio:
        with pytest.raises(StoreOutage):
            await plan_project(studio, project)
    assert (workshop.emulator.books(), [row.state for row in await workshop.rows()]) == before
    assert not told.value.retryable
    assert "Nothing was bought" in str(told.value)
    return str(told.value)


async def test_the_first_video_marks_the_store_and_the_ledger_knows_it(workshop: Workshop) -> None:
    store = await stored(workshop)
    store_id = json.loads((store / STORE_MARKER).read_text())["store_id"]
    assert {row.store_id for row in await workshop.rows()} == {store_id}
    async with workshop.ledger() as ledger:
        assert await ledger.store_ids(store.as_uri()) == {store_id}


async def test_a_mount_point_without_its_volume_is_an_outage(workshop: Workshop) -> None:
    store = await stored(workshop)
    store.rename(volume := workshop.folder / "volume")
    store.mkdir()
    reason = await refused(workshop)
    assert "has no marker" in reason
    assert "--rebuy-missing" in reason
    assert "verify" in reason
    # Another project would write into the empty folder: that is refused too.
    await refused(workshop, film(a_shot(9), name="other"))
    assert list(store.iterdir()) == []

    store.rmdir()
    volume.rename(store)
    report = await workshop.run(FILM)
    assert [shot.cached for shot in report.shots] == [True] * 3
    assert workshop.paid == (3, 3)


async def test_a_volume_that_is_not_even_a_folder_is_an_outage(workshop: Workshop) -> None:
    store = await stored(workshop)
    store.rename(workshop.folder / "volume")
    await refused(workshop)
    assert not store.exists()
    assert workshop.paid == (3, 3)


async def test_another_stores_folder_is_an_outage(workshop: Workshop, open_workshop: OpenWorkshop) -> None:
    store = await stored(workshop)
    shutil.move(store, workshop.folder / "volume")
    other = open_workshop(ledger_url=f"sqlite:///{workshop.folder / 'other.db'}")
    await other.run(film(a_shot(7), name="theirs"))
    assert "is another one" in await refused(workshop)
    assert workshop.paid == (3, 3)


async def test_one_file_that_was_removed_is_fetched_again_and_said_so(workshop: Workshop) -> None:
    await stored(workshop)
    workshop.videos[0].unlink()
    report = await workshop.run(FILM)
    assert statuses(report) == ["stored"] * 3
    assert [shot.repair is not None for shot in report.shots] == [True, False, False]
    assert "missing; it was fetched again" in str(report.shots[0].repair)
    assert report.shots[0].public()["repair"] == report.shots[0].repair
    assert report.cost_usd == 0
    assert len(workshop.videos) == 3
    assert [shot.cached for shot in (await workshop.run(FILM)).shots] == [True] * 3
    assert workshop.paid == (3, 3)


async def test_one_file_that_was_cut_short_is_fetched_again(workshop: Workshop) -> None:
    await stored(workshop)
    whole = workshop.videos[0].read_bytes()
    workshop.videos[0].write_bytes(whole[:1000])
    report = await workshop.run(FILM)
    assert "damaged (1,000 of" in str(report.shots[0].repair)
    assert workshop.videos[0].read_bytes() == whole
    assert workshop.paid == (3, 3)


async def test_one_that_the_provider_has_forgotten_is_made_anew_and_said_so(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    await stored(workshop)
    row = (await workshop.rows())[0]
    workshop.videos[0].unlink()
    workshop.emulator.add_fault(
        operation="retrieve", kind="not_found", times=None, match={"generation_id": row.generation_id}
    )
    report = await workshop.run(FILM)
    assert statuses(report) == ["stored"] * 3
    assert "no longer has it: it was made anew" in str(report.shots[0].repair)
    assert "made anew" in caplog.text
    assert report.shots[0].cost_usd == report.cost_usd > 0
    assert workshop.paid == (4, 4)


async def test_a_provider_that_does_not_answer_is_no_reason_to_buy(workshop: Workshop) -> None:
    await stored(workshop)
    workshop.videos[0].unlink()
    workshop.emulator.add_fault(operation="retrieve", kind="error_before", times=None)
    assert statuses(await workshop.run(FILM)) == ["failed", "stored", "stored"]
    workshop.emulator.clear_faults()
    assert statuses(await workshop.run(FILM)) == ["stored"] * 3
    assert workshop.paid == (3, 3)


async def test_a_run_that_dies_while_it_fetches_again_is_finished_by_collect(workshop: Workshop) -> None:
    await stored(workshop)
    workshop.videos[0].unlink()
    await workshop.interrupt(FILM, "downloading")
    assert len(workshop.videos) == 2
    await workshop.collect()
    assert len(workshop.videos) == 3
    assert {row.state for row in await workshop.rows()} == {State.STORED}
    assert workshop.paid == (3, 3)


async def test_several_files_that_are_missing_at_once_are_an_outage(workshop: Workshop) -> None:
    await stored(workshop)
    workshop.videos[0].unlink()
    workshop.videos[0].write_bytes(b"cut")
    reason = await refused(workshop)
    assert "2 stored videos are missing or damaged at once" in reason
    # Asked for one by one they are no fewer.
    await refused(workshop, film(a_shot(1)))
    assert workshop.paid == (3, 3)


@pytest.mark.parametrize("forgotten", [False, True])
async def test_whoever_insists_gets_the_rest_fetched_or_bought(workshop: Workshop, *, forgotten: bool) -> None:
    store = await stored(workshop)
    shutil.rmtree(store)
    store.mkdir()
    if forgotten:
        workshop.emulator.add_fault(operation="retrieve", kind="not_found", times=15)
    report = await insist(workshop)
    assert statuses(report) == ["stored"] * 3
    assert workshop.paid == ((6, 6) if forgotten else (3, 3))
    paid = workshop.paid
    assert [shot.cached for shot in (await workshop.run(FILM)).shots] == [True] * 3
    assert workshop.paid == paid


async def test_a_refresh_insists_too(workshop: Workshop) -> None:
    store = await stored(workshop)
    shutil.rmtree(store)
    store.mkdir()
    assert statuses(await insist(workshop, refresh=True)) == ["stored"] * 3
    assert workshop.paid == (6, 6)
    assert [shot.cached for shot in (await workshop.run(FILM)).shots] == [True] * 3
    assert workshop.paid == (6, 6)


async def test_a_volume_that_goes_away_during_a_run_gets_no_second_store(workshop: Workshop) -> None:
    store = await stored(workshop)
    async with workshop.studio() as studio:
        made = Project(name="film", shots=(a_shot(4),))

        def unmount(moment: str, _: object) -> None:
            if moment == "downloaded":
                store.rename(workshop.folder / "volume")
                store.mkdir()

        studio.observer = unmount
        report = await run_project(studio, made)
    assert statuses(report) == ["failed"]
    assert list(store.iterdir()) == []
    store.rmdir()
    (workshop.folder / "volume").rename(store)
    await workshop.collect()
    assert len(workshop.videos) == 4
    assert workshop.paid == (4, 4)


async def test_a_copy_that_was_cut_short_is_copied_again(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(), name="first"))
    for _ in range(2):
        assert statuses(await workshop.run(film(a_shot(), name="second"))) == ["stored"]
        copy = next(path for path in workshop.videos if path.parent.name == "second")
        whole = next(path for path in workshop.videos if path.parent.name == "first").read_bytes()
        assert copy.read_bytes() == whole
        copy.write_bytes(whole[:100])
    assert workshop.paid == (1, 1)


async def test_a_marker_that_cannot_be_read_stops_the_run(workshop: Workshop) -> None:
    store = await stored(workshop)
    (store / STORE_MARKER).write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        await workshop.run(FILM)
    assert workshop.paid == (3, 3)


async def test_a_store_that_moved_with_its_marker_is_the_same_store(workshop: Workshop) -> None:
    store = await stored(workshop)
    async with workshop.studio() as studio:
        moved = open_store((workshop.folder / "moved").as_uri())
        store.rename(workshop.folder / "moved")
        assert await moved.read_identity() in await studio.ledger.store_ids(store.as_uri())
