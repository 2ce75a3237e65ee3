"""What is stored is not paid again: within a project, across projects, and a thousand at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.errors import StoreError
from prefect_video.ledger import State
from prefect_video.pipeline.entry_points import run_project
from prefect_video.pipeline.reports import ProjectReport
from prefect_video.projects import Project
from prefect_video.storage import open_store
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses


async def test_a_stored_video_of_another_project_is_copied(harness: RecoveryHarness) -> None:
    assert statuses(await harness.run(film(a_shot(), name="first"))) == ["stored"]
    for _ in range(2):
        report = await harness.run(film(a_shot(id="same"), name="second"))
        assert statuses(report) == ["stored"]
        assert (report.shots[0].cached, report.cost_usd) == (True, 0)
        assert "/second/same." in str(report.shots[0].uri)
    first, second = harness.videos
    assert first.read_bytes() == second.read_bytes()
    assert second.with_suffix(".json").exists()
    assert harness.paid == (1, 1)
    assert harness.emulator.usage()["downloaded"] == 1


async def test_a_copy_that_fails_fails_alone(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1), name="first"))
    (harness.folder / "store" / "second").mkdir()
    # Where the copy should go stands a folder of its name.
    (job,) = await harness.rows()
    assert job.asset is not None
    name = Path(job.asset.uri).name.replace("shot-1.", "same.", 1)
    (harness.folder / "store" / "second" / name).mkdir()
    report = await harness.run(film(a_shot(1, id="same"), a_shot(2), name="second"))
    assert statuses(report) == ["failed", "stored"]
    assert not [job for job in await harness.rows() if job.owner]
    assert harness.paid == (2, 2)


async def test_two_shots_of_the_same_words_are_one_payment(harness: RecoveryHarness) -> None:
    report = await harness.run(film(a_shot(1), a_shot(1, id="again"), a_shot(1, id="takes", takes=2)))
    assert statuses(report) == ["stored"] * 4
    assert len({shot.generation_id for shot in report.shots}) == 2
    assert harness.paid == (2, 2)


async def test_a_file_that_was_deleted_is_fetched_again_free(harness: RecoveryHarness) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    harness.videos[0].unlink()
    for _ in range(2):
        assert statuses(await harness.run(film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    assert harness.paid == (2, 2)
    assert [job.state for job in await harness.rows()] == [State.STORED, State.STORED]


async def test_a_file_that_was_deleted_and_is_gone_at_the_provider_is_bought_again_once(
    harness: RecoveryHarness,
) -> None:
    await harness.run(film(a_shot(1), a_shot(2)))
    job = (await harness.rows())[0]
    assert job.asset is not None
    Path(job.asset.uri.removeprefix("file://")).unlink()
    harness.emulator.add_fault(
        operation="retrieve", kind="not_found", times=None, match={"generation_id": job.generation_id}
    )
    for _ in range(2):
        assert statuses(await harness.run(film(a_shot(1), a_shot(2)))) == ["stored", "stored"]
    assert harness.paid == (3, 3)
    assert sorted(job.state for job in await harness.rows()) == [State.LOST, State.STORED, State.STORED]


async def test_a_thousand_stored_shots_need_no_request(harness: RecoveryHarness) -> None:
    await harness.run(a_shot(prompt="the one that is paid"))
    (paid,) = await harness.rows()
    assert paid.asset is not None
    project = film(*(a_shot(number) for number in range(1000)))
    await _store_all(harness, project, Path(paid.asset.uri.removeprefix("file://")))
    before = harness.emulator.usage()
    report = await harness.run(project)
    assert statuses(report) == ["stored"] * 1000
    assert {shot.cached for shot in report.shots} == {True}
    assert harness.emulator.usage() == before


async def _store_all(harness: RecoveryHarness, project: Project, video: Path) -> None:
    """Rows as an earlier run would have left them, all with the same file."""
    from sqlalchemy import insert

    from prefect_video.ledger.claims import row_from_request
    from prefect_video.ledger.tables import jobs_table
    from prefect_video.pipeline.steps import build_project_job_requests

    (paid,) = await harness.rows()
    async with harness.session() as session:
        job_requests = await build_project_job_requests(session, project)
        rows = []
        for number, job_request in enumerate(job_requests):
            assert paid.asset is not None
            assert paid.stored_at is not None
            asset = paid.asset.model_copy(update={"shot_id": job_request.shot.id})
            row = row_from_request(job_request, State.STORED, 1, None, paid.created_at)
            rows.append({**row, "asset": asset, "stored_at": paid.stored_at, "generation_id": f"gen-{number}"})
        async with session.ledger._database.writing() as connection:
            await connection.execute(insert(jobs_table), rows)


async def run_elsewhere(harness: RecoveryHarness) -> ProjectReport:
    """A run of another project that keeps its videos in a store of its own."""
    async with harness.session() as session:
        session.store_name = (harness.folder / "elsewhere").as_uri()
        session.store = open_store(session.store_name)
        return await run_project(session, film(a_shot(), name="second"))


async def test_a_file_that_was_deleted_from_another_store_is_fetched_again_free(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    harness.videos[0].unlink()
    for _ in range(2):
        assert statuses(await run_elsewhere(harness)) == ["stored"]
    assert [job.state for job in await harness.rows()] == [State.STORED]
    assert harness.paid == (1, 1)


async def test_another_store_that_is_an_empty_folder_has_lost_nothing(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    (harness.folder / "store").rename(harness.folder / "unmounted")
    (harness.folder / "store").mkdir()
    assert statuses(await run_elsewhere(harness)) == ["failed"]
    assert harness.paid == (1, 1)


async def test_a_store_that_is_not_here_has_lost_nothing(harness: RecoveryHarness) -> None:
    await harness.run(a_shot())
    (harness.folder / "store").rename(harness.folder / "unmounted")
    assert statuses(await run_elsewhere(harness)) == ["failed"]
    (harness.folder / "unmounted").rename(harness.folder / "store")
    assert statuses(await run_elsewhere(harness)) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_spool_that_another_user_may_write_to_stops_a_run_before_it_pays(harness: RecoveryHarness) -> None:
    spool = harness.folder / "spool"
    spool.mkdir(exist_ok=True)
    spool.chmod(0o777)
    with pytest.raises(StoreError, match="cannot use the spool folder"):
        await harness.run(film(a_shot()))
    assert harness.paid == (0, 0)
    spool.chmod(0o700)
    assert statuses(await harness.run(film(a_shot()))) == ["stored"]
    # What is stored needs no spool.
    spool.chmod(0o777)
    assert [shot.cached for shot in (await harness.run(film(a_shot()))).shots] == [True]
