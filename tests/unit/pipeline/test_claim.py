"""What is stored is not paid again: within a project, across projects, and a thousand at once."""

from __future__ import annotations

from pathlib import Path

from prefect_video.ledger import State
from prefect_video.pipeline.project_run import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.shots import Project
from prefect_video.storage import open_store
from tests.support.recovery import Workshop, a_shot, film, statuses


async def test_a_stored_video_of_another_project_is_copied(workshop: Workshop) -> None:
    assert statuses(await workshop.run(film(a_shot(), name="first"))) == ["stored"]
    for _ in range(2):
        report = await workshop.run(film(a_shot(id="same"), name="second"))
        assert statuses(report) == ["stored"]
        assert (report.shots[0].cached, report.cost_usd) == (True, 0)
        assert "/second/same." in str(report.shots[0].uri)
    first, second = workshop.videos
    assert first.read_bytes() == second.read_bytes()
    assert second.with_suffix(".json").exists()
    assert workshop.paid == (1, 1)
    assert workshop.emulator.books()["downloaded"] == 1


async def test_a_copy_that_fails_fails_alone(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(1), name="first"))
    (workshop.folder / "store" / "second").mkdir()
    # Where the copy should go stands a folder of its name.
    (row,) = await workshop.rows()
    assert row.asset is not None
    name = Path(row.asset.uri).name.replace("shot-1.", "same.", 1)
    (workshop.folder / "store" / "second" / name).mkdir()
    report = await workshop.run(film(a_shot(1, id="same"), a_shot(2), name="second"))
    assert statuses(report) == ["failed", "stored"]
    assert not [row for row in await workshop.rows() if row.owner]
    assert workshop.paid == (2, 2)


async def test_two_shots_of_the_same_words_are_one_payment(workshop: Workshop) -> None:
    report = await workshop.run(film(a_shot(1), a_shot(1, id="again"), a_shot(1, id="takes", takes=2)))
    assert statuses(report) == ["stored"] * 4
    assert len({shot.generation_id for shot in report.shots}) == 2
    assert workshop.paid == (2, 2)


async def test_a_file_that_was_deleted_is_fetched_again_free(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(1), a_shot(2)))
    workshop.videos[0].unlink()
    for _ in range(2):
        assert statuses(await workshop.run(film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    assert workshop.paid == (2, 2)
    assert [row.state for row in await workshop.rows()] == [State.STORED, State.STORED]


async def test_a_file_that_was_deleted_and_is_gone_at_the_provider_is_bought_again_once(workshop: Workshop) -> None:
    await workshop.run(film(a_shot(1), a_shot(2)))
    row = (await workshop.rows())[0]
    assert row.asset is not None
    Path(row.asset.uri.removeprefix("file://")).unlink()
    workshop.emulator.add_fault(
        operation="retrieve", kind="not_found", times=None, match={"generation_id": row.generation_id}
    )
    for _ in range(2):
        assert statuses(await workshop.run(film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    assert workshop.paid == (3, 3)
    assert sorted(row.state for row in await workshop.rows()) == [State.LOST, State.STORED, State.STORED]


async def test_a_thousand_stored_shots_need_no_request(workshop: Workshop) -> None:
    await workshop.run(a_shot(prompt="the one that is paid"))
    (paid,) = await workshop.rows()
    assert paid.asset is not None
    project = film(*(a_shot(number) for number in range(1000)))
    await _store_all(workshop, project, Path(paid.asset.uri.removeprefix("file://")))
    before = workshop.emulator.books()
    report = await workshop.run(project)
    assert statuses(report) == ["stored"] * 1000
    assert {shot.cached for shot in report.shots} == {True}
    assert workshop.emulator.books() == before


async def _store_all(workshop: Workshop, project: Project, video: Path) -> None:
    """Rows as an earlier run would have left them, all with the same file."""
    from sqlalchemy import insert

    from prefect_video.ledger.claims import row_of
    from prefect_video.ledger.tables import generations
    from prefect_video.pipeline.steps import build_project_intents

    (paid,) = await workshop.rows()
    async with workshop.studio() as studio:
        intents = await build_project_intents(studio, project)
        rows = []
        for number, intent in enumerate(intents):
            assert paid.asset is not None
            assert paid.stored_at is not None
            asset = paid.asset.model_copy(update={"shot_id": intent.shot.id})
            row = row_of(intent, State.STORED, 1, None, paid.created_at)
            rows.append({**row, "asset": asset, "stored_at": paid.stored_at, "generation_id": f"gen-{number}"})
        async with studio.ledger._database.writing() as connection:
            await connection.execute(insert(generations), rows)


async def run_elsewhere(workshop: Workshop) -> ProjectReport:
    """A run of another project that keeps its videos in a store of its own."""
    async with workshop.studio() as studio:
        studio.store_name = (workshop.folder / "elsewhere").as_uri()
        studio.store = open_store(studio.store_name)
        return await run_project(studio, film(a_shot(), name="second"))


async def test_a_file_that_was_deleted_from_another_store_is_fetched_again_free(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    workshop.videos[0].unlink()
    for _ in range(2):
        assert statuses(await run_elsewhere(workshop)) == ["stored"]
    assert [row.state for row in await workshop.rows()] == [State.STORED]
    assert workshop.paid == (1, 1)


async def test_another_store_that_is_an_empty_folder_has_lost_nothing(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    (workshop.folder / "store").rename(workshop.folder / "unmounted")
    (workshop.folder / "store").mkdir()
    assert statuses(await run_elsewhere(workshop)) == ["failed"]
    assert workshop.paid == (1, 1)


async def test_a_store_that_is_not_here_has_lost_nothing(workshop: Workshop) -> None:
    await workshop.run(a_shot())
    (workshop.folder / "store").rename(workshop.folder / "unmounted")
    assert statuses(await run_elsewhere(workshop)) == ["failed"]
    (workshop.folder / "unmounted").rename(workshop.folder / "store")
    assert statuses(await run_elsewhere(workshop)) == ["stored"]
    assert workshop.paid == (1, 1)
