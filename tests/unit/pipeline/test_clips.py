"""Clips made by hand: stored like any video, never sent, never paid, and never in the place of what is being paid."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from prefect_video.assets import MANUAL
from prefect_video.errors import InvalidInput, StoreOutage
from prefect_video.ledger import HoldReason, State, hold_message
from prefect_video.pipeline import adopt_clip, plan_project, run_project
from prefect_video.pipeline.steps import build_project_job_requests
from prefect_video.pipeline.verification import verify_store
from prefect_video.projects import Project
from prefect_video.session import SessionEvent
from prefect_video.shots import Shot
from prefect_video.storage import file_sha256
from tests.support.clips import write_clip
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses
from tests.support.web_server import ranged, running_web


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Write a clip as a web tool would give it."""
    return write_clip(tmp_path / "footage.mp4")


def with_clip(clip: str | Path, **changes: object) -> Project:
    """Build a project of a clip and of a shot that follows it."""
    return film(Shot(id="stock", clip=str(clip)), a_shot(2, depends_on=("stock",)), **changes)


async def test_a_clip_is_stored_at_no_cost_beside_what_is_generated(harness: RecoveryHarness, footage: Path) -> None:
    project = with_clip(footage, budget_videos=1)
    async with harness.session() as session:
        plan = await plan_project(session, project)
    assert (plan.shots[0].action, plan.shots[0].estimate_usd) == ("clip", 0)
    first, second = await harness.run(project), await harness.run(project)
    assert statuses(first) == statuses(second) == ["stored", "stored"]
    assert [[shot.cached for shot in report.shots] for report in (first, second)] == [[False, False], [True, True]]
    assert first.shots[0].cost_usd == 0
    assert harness.paid == (1, 1)
    sidecar = json.loads(next((harness.folder / "store" / "film").glob("stock.*.json")).read_bytes())
    assert (sidecar["origin"], sidecar["provider"], sidecar["sha256"]) == ("by hand", MANUAL, file_sha256(footage))
    (job,) = [row for row in await harness.rows() if row.shot.id == "stock"]
    assert (job.state, job.actual_usd, job.sent_at) == (State.STORED, Decimal(0), None)
    async with harness.session() as session:
        assert (await verify_store(session.ledger, session.store)).is_whole


async def test_a_clip_that_cannot_be_used_stops_the_run_before_anything_is_paid(
    harness: RecoveryHarness, tmp_path: Path, footage: Path
) -> None:
    torn, other = tmp_path / "torn.mp4", tmp_path / "other.webm"
    torn.write_bytes(footage.read_bytes()[:-2000])
    write_clip(other, container="matroska")
    for clip, reason in ((torn, "cut short"), (other, "convert it to an MP4"), (tmp_path / "none.mp4", "cannot read")):
        with pytest.raises(InvalidInput, match=reason):
            await harness.run(with_clip(clip))
    assert harness.paid == (0, 0)
    assert (harness.videos, list((harness.folder / "spool").iterdir())) == ([], [])


async def test_a_clip_at_an_address_is_fetched_once(harness: RecoveryHarness, footage: Path) -> None:
    async with running_web() as web:
        web.handler = ranged(footage.read_bytes())
        project = with_clip(web.url("/stock.mp4?token=hush"))
        for _ in range(2):
            report = await harness.run(project)
            assert statuses(report) == ["stored", "stored"]
            assert report.shots[0].sha256 == file_sha256(footage)
        assert [request.path for request in web.requests] == ["/stock.mp4?token=hush"]
    # What is fetched once is not requested again, and its address gives nothing away.
    assert statuses(await harness.run(project)) == ["stored", "stored"]
    assert not any("hush" in row.model_dump_json() for row in await harness.rows())
    assert not any(b"hush" in path.read_bytes() for path in (harness.folder / "store" / "film").iterdir())
    with pytest.raises(InvalidInput, match=r"clip: .*169\.254"):
        await harness.run(with_clip("https://169.254.169.254/latest"))
    assert harness.paid == (1, 1)


async def test_an_empty_mount_point_gets_no_clip(harness: RecoveryHarness, footage: Path) -> None:
    project = with_clip(footage)
    assert statuses(await harness.run(project)) == ["stored", "stored"]
    store = harness.folder / "store"
    store.rename(harness.folder / "unmounted")
    store.mkdir()
    with pytest.raises(StoreOutage):
        await harness.run(project)
    assert list(store.iterdir()) == []
    async with harness.session() as session:
        report = await run_project(session, project, rebuy_missing=True)
    assert statuses(report) == ["stored", "stored"]
    # The provider still has what it made.
    assert harness.paid == (1, 1)


async def test_an_adopted_clip_is_found_and_nothing_is_bought(harness: RecoveryHarness, footage: Path) -> None:
    project = film(a_shot(takes=2))
    async with harness.session() as session:
        job = await adopt_clip(session, project, "shot-1", str(footage), take=2)
    assert job.asset is not None
    assert "pixels" in "; ".join(job.asset.notes)
    report = await harness.run(project)
    assert statuses(report) == ["stored", "stored"]
    assert [shot.sha256 == file_sha256(footage) for shot in report.shots] == [False, True]
    assert harness.paid == (1, 1)
    # In the place of a paid video, which stays: the newest counts.
    async with harness.session() as session:
        await adopt_clip(session, project, "shot-1", str(footage))
    report = await harness.run(project)
    assert [shot.sha256 for shot in report.shots] == [file_sha256(footage)] * 2
    assert harness.paid == (1, 1)
    assert len(harness.videos) == 3


async def test_an_adopted_clip_is_for_its_shot_alone(harness: RecoveryHarness, footage: Path) -> None:
    assert statuses(await harness.run(a_shot())) == ["stored"]
    async with harness.session() as session:
        await adopt_clip(session, film(a_shot(), name="other"), "shot-1", str(footage))
    for name, is_clip in (("film", False), ("other", True), ("third", False)):
        report = await harness.run(film(a_shot(), name=name))
        assert (report.shots[0].sha256 == file_sha256(footage)) is is_clip, name
    assert harness.paid == (1, 1)


async def test_a_clip_is_never_sent(harness: RecoveryHarness, footage: Path) -> None:
    async with harness.session() as session:
        # The job API and the providers themselves take no shot of this kind.
        with pytest.raises(InvalidInput, match="made by hand, and is not sent"):
            await build_project_job_requests(session, with_clip(footage))


async def test_what_is_in_progress_or_held_is_settled_first(harness: RecoveryHarness, footage: Path) -> None:
    async def adopt() -> None:
        async with harness.session() as session:
            await adopt_clip(session, film(a_shot()), "shot-1", str(footage))

    await harness.interrupt(a_shot(), SessionEvent.SUBMITTED)
    with pytest.raises(InvalidInput, match=r"is submitted at emulator.*prefect-video collect --wait.*cancel"):
        await adopt()
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    assert statuses(await harness.run(a_shot())) == ["held"]
    with pytest.raises(InvalidInput, match=r"is held and may be paid.*--accept"):
        await adopt()
    row = await harness.row()
    assert row.hold_reason is not None
    assert (harness.paid, len(harness.rejected), harness.videos) == ((1, 1), 1, [])
    async with harness.ledger() as ledger:
        await ledger.jobs.record_ended(row.id, State.LOST, "resolved", actual_usd=None)
        given_up = hold_message(HoldReason.GIVEN_UP, job=row.id, shot=row.shot.id, ledger="elsewhere.db")
        await ledger.jobs.hold(row.id, given_up)
    await adopt()
    assert [shot.cached for shot in (await harness.run(a_shot())).shots] == [True]
    assert harness.paid == (1, 1)


async def test_a_generation_that_begins_meanwhile_is_not_displaced(
    harness: RecoveryHarness, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["prefect_video.pipeline.steps.manual_clips"]
    publish = module.publish_video

    async def publish_late(*arguments: object, **options: object) -> object:
        await harness.interrupt(a_shot(), SessionEvent.SUBMITTED)
        return await publish(*arguments, **options)

    monkeypatch.setattr(module, "publish_video", publish_late)
    async with harness.session() as session:
        with pytest.raises(InvalidInput, match="of the same video is submitted"):
            await adopt_clip(session, film(a_shot()), "shot-1", str(footage))
    assert harness.videos == []
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_process_that_dies_before_the_record_leaves_nothing_in_the_way(
    harness: RecoveryHarness, footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def die(*_: object, **__: object) -> None:
        raise Killed

    async def adopt() -> None:
        async with harness.session() as session:
            await adopt_clip(session, film(a_shot()), "shot-1", str(footage))

    assert statuses(await harness.run(a_shot(9))) == ["stored"]
    with monkeypatch.context() as patch:
        patch.setattr("prefect_video.ledger.recovery.Recoveries.record_manual", die)
        with pytest.raises(Killed):
            await adopt()
    assert len(await harness.rows()) == 1
    # The ledger is no old backup for it: the published clip is found by its sidecar.
    assert [shot.cached for shot in (await harness.run(a_shot())).shots] == [True]
    await adopt()
    assert len(await harness.rows()) == 2
    assert harness.paid == (1, 1)


async def test_a_deleted_clip_is_stored_again_and_an_adopted_one_is_not_bought_unasked(
    harness: RecoveryHarness, footage: Path
) -> None:
    stock = film(Shot(id="stock", clip=str(footage)))
    assert statuses(await harness.run(stock)) == ["stored"]
    harness.videos[0].unlink()
    assert statuses(await harness.run(stock)) == ["stored"]
    assert len(harness.videos) == 1
    harness.videos[0].unlink()
    async with harness.session() as session:
        await adopt_clip(session, film(a_shot()), "shot-1", str(footage))
    assert statuses(await harness.run(stock)) == ["stored"]
    next(path for path in harness.videos if path.name.startswith("shot-1")).unlink()
    with pytest.raises(StoreOutage, match=r"made by hand.*Nothing was bought"):
        await harness.run(a_shot())
    assert harness.paid == (0, 0)


async def test_an_adopted_clip_and_a_like_shot_have_each_their_own_video(
    harness: RecoveryHarness, footage: Path
) -> None:
    """Shots of one fingerprint: what continues the generated one, and a new ledger, take no clip for it."""
    project = film(
        a_shot(1, prompt="waves"), a_shot(2, prompt="waves"), a_shot(3, continue_from="shot-2"), budget_videos=2
    )
    async with harness.session() as session:
        clip = await adopt_clip(session, project, "shot-1", str(footage))
    assert clip.asset is not None
    reports = [await harness.run(project) for _ in range(2)]
    for report in reports:
        assert statuses(report) == ["stored"] * 3
        assert report.shots[0].sha256 == clip.asset.sha256 != report.shots[1].sha256
    (child,) = [row for row in await harness.rows() if row.shot.id == "shot-3"]
    assert child.shot.first_frame == f"last-frame:{reports[0].shots[1].sha256}"
    assert harness.paid == (2, 2)
    # In a new ledger the sidecars decide.
    (harness.folder / "ledger.db").rename(harness.folder / "lost.db")
    again = await harness.run(project)
    assert [shot.sha256 for shot in again.shots] == [shot.sha256 for shot in reports[0].shots]
    assert harness.paid == (2, 2)
