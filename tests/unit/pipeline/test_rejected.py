"""Videos that are not as requested: kept, held, and accepted by a human or by policy; paid once, fetched once."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from typing import Any

import pytest

from prefect_video.downloads import DEFAULT_SETTINGS
from prefect_video.downloads.media import probe
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.accept import accept_rejected
from prefect_video.pipeline.verification import verify_store
from prefect_video.session import SessionEvent
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses

ALTERATIONS = {
    "longer": r"requested 1 s, the video lasts 2.00 s",
    "resized": "pixels, the video has",
    "stretched": "its pixels are not square (4:3)",
    "matroska": "requested an MP4, it is a WebM or Matroska file",
    "unbranded": "does not begin with its `ftyp` box",
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_a_video_that_is_not_as_requested_is_kept_and_can_be_accepted(
    harness: RecoveryHarness, alteration: str
) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration=alteration, times=None)
    for _ in range(2):
        report = await harness.run(a_shot())
        assert statuses(report) == ["held"]
        assert ALTERATIONS[alteration] in str(report.shots[0].error)
        assert "--accept" in str(report.shots[0].error)
    assert (harness.videos, list((harness.folder / "spool").iterdir())) == ([], [])
    (kept,) = harness.rejected
    frames = probe(kept).frames
    record = json.loads(kept.with_suffix(".json").read_bytes())
    assert ALTERATIONS[alteration] in "; ".join(record["reasons"])
    # One fetch is enough: the file was whole.
    assert harness.emulator.usage()["downloaded"] == 1

    async with harness.session() as session:
        accepted = await accept_rejected(session, await harness.row())
        assert (accepted.state, accepted.hold_reason) == (State.STORED, None)
        with pytest.raises(InvalidInput, match="is stored: --accept is for one that is held"):
            await accept_rejected(session, accepted)
    assert accepted.asset is not None
    assert ALTERATIONS[alteration] in "; ".join(accepted.asset.notes)
    (video,) = harness.videos
    assert (probe(video).frames, harness.rejected) == (frames, [])
    assert [shot.cached for shot in (await harness.run(a_shot())).shots] == [True]
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("decided_by", ["project", "settings"])
async def test_a_policy_accepts_it_with_a_note(harness: RecoveryHarness, decided_by: str) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    project = film(a_shot(), on_mismatch="accept" if decided_by == "project" else None)
    # What the project says wins.
    settings = {"on_mismatch": "hold" if decided_by == "project" else "accept"}
    report = await harness.run(project, **settings)
    assert statuses(report) == ["stored"]
    assert report.shots[0].asset is not None
    assert "requested 1 s, the video lasts 2.00 s" in report.shots[0].asset.notes
    # Its stored file is lost: what was accepted once is fetched again and accepted as it was.
    harness.videos[0].unlink()
    assert statuses(await harness.run(film(a_shot()))) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_project_can_be_stricter_than_the_settings(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer")
    assert statuses(await harness.run(film(a_shot(), on_mismatch="hold"), on_mismatch="accept")) == ["held"]


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "content", "kind": "altered_file", "alteration": "trailing"},
        {"operation": "list", "kind": "wrong_size", "off_by": 1},
        {"operation": "list", "kind": "wrong_size", "off_by": -1},
    ],
    ids=["trailing", "stated-more", "stated-less"],
)
async def test_what_is_odd_about_a_whole_video_is_noted(harness: RecoveryHarness, fault: dict[str, Any]) -> None:
    harness.emulator.add_fault(**fault, times=None)
    if fault["operation"] == "list":
        harness.emulator.add_fault(**{**fault, "operation": "retrieve"}, times=None)
    report = await harness.run(a_shot())
    assert statuses(report) == ["stored"]
    assert report.shots[0].asset is not None
    expected = "stated 49," if fault["kind"] == "wrong_size" else "bytes behind the end of the video"
    assert any(expected in note for note in report.shots[0].asset.notes)
    assert harness.emulator.usage()["downloaded"] == 1
    assert harness.paid == (1, 1)


@pytest.mark.parametrize(
    "lie", [{"content_encoding": "aws-chunked"}, {"content_type": "application/json"}], ids=["encoding", "type"]
)
async def test_lying_headers_keep_no_video_back(harness: RecoveryHarness, lie: dict[str, str]) -> None:
    harness.emulator.add_fault(operation="content", kind="lying_headers", times=None, **lie)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.emulator.usage()["downloaded"] == 1


@pytest.mark.parametrize("status", [202, 404, 409, 425])
async def test_a_file_that_comes_after_its_generation_has_ended(harness: RecoveryHarness, status: int) -> None:
    harness.emulator.add_fault(operation="content", kind="not_ready", not_ready_status=status, times=3)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.paid == (1, 1)


async def test_a_rejected_video_is_known_and_missing_ones_are_not_accepted(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer")
    assert statuses(await harness.run(a_shot())) == ["held"]
    async with harness.session() as session:
        assert (await verify_store(session.ledger, session.store)).unknown_files == ()
        harness.rejected[0].unlink()
        with pytest.raises(StoreError, match=r"rejected\.mp4 is not in the store.*fetch it again.*--keep-waiting"):
            await accept_rejected(session, await harness.row())
    job = await harness.row()
    assert job.state is State.COMPLETED
    assert job.hold_reason is not None


@pytest.mark.parametrize("spool_is_lost", [False, True])
async def test_a_process_that_dies_before_the_hold_loses_no_rejected_video(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch, spool_is_lost: bool
) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)

    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["prefect_video.pipeline.steps.download"], "_hold_kept", die)
        with pytest.raises(Killed):
            await harness.run(a_shot())
    assert ((await harness.row()).hold_reason, len(harness.rejected)) == (None, 1)
    if spool_is_lost:
        shutil.rmtree(harness.folder / "spool")
    # The provider has forgotten it: what was kept is all that there is of what was paid.
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None)
    report = await harness.run(a_shot())
    assert statuses(report) == ["held"]
    assert "--accept" in str(report.shots[0].error)
    async with harness.session() as session:
        assert (await accept_rejected(session, await harness.row())).state is State.STORED
    assert harness.paid == (1, 1)


async def test_a_whole_video_in_the_spool_needs_no_provider(harness: RecoveryHarness) -> None:
    await harness.interrupt(a_shot(), SessionEvent.DOWNLOADED)
    harness.emulator.add_fault(operation="retrieve", kind="not_found", times=None)
    assert statuses(await harness.run(a_shot())) == ["stored"]
    assert harness.emulator.usage()["downloaded"] == 1
    assert harness.paid == (1, 1)


@pytest.mark.parametrize("decision", ["--give-up", "--buy-again"])
async def test_a_kept_video_can_be_accepted_after_another_decision(harness: RecoveryHarness, decision: str) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    await harness.run(a_shot())
    row = await harness.row()
    async with harness.ledger() as ledger:
        await ledger.jobs.record_ended(row.id, State.LOST, decision, actual_usd=None)
        if decision == "--give-up":
            await ledger.jobs.hold(row.id, "given up")
    async with harness.session() as session, harness.session() as other:
        lost = await harness.row()
        accepted = await asyncio.gather(accept_rejected(session, lost), accept_rejected(other, lost))
    assert [(job.state, job.hold_reason) for job in accepted] == [(State.STORED, None)] * 2
    assert [shot.cached for shot in (await harness.run(a_shot())).shots] == [True]
    assert harness.paid == (1, 1)


async def test_a_kept_video_of_another_generation_is_not_accepted(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    await harness.run(a_shot())
    async with harness.session() as session:
        job = await harness.row()
        with pytest.raises(StoreError, match="nothing says that it is of generation gen_other"):
            await accept_rejected(session, job.model_copy(update={"generation_id": "gen_other"}))
    assert len(harness.rejected) == 1


async def test_a_store_that_cannot_keep_it_loses_nothing(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="longer", times=None)
    await harness.interrupt(a_shot(), "downloading")
    folder = harness.folder / "store" / "film"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file in the way")
    assert statuses(await harness.run(a_shot())) == ["failed"]
    assert list((harness.folder / "spool").glob("*.mp4"))
    folder.unlink()
    assert statuses(await harness.run(a_shot())) == ["held"]
    assert len(harness.rejected) == 1
    assert harness.paid == (1, 1)


async def test_a_download_that_drips_holds_back_no_other(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = replace(DEFAULT_SETTINGS, speed_window_seconds=0.2)
    # By its name in `sys.modules`: the door of the steps has a function of that name.
    monkeypatch.setattr(sys.modules["prefect_video.pipeline.steps.download"], "DEFAULT_SETTINGS", quick)
    dripping, others = a_shot(1, prompt="it drips"), [a_shot(number) for number in (2, 3)]
    match = {"prompt": "it drips"}
    harness.emulator.add_fault(operation="content", kind="slow", bytes_per_second=1_000, match=match, times=2)
    stored: list[str] = []

    def observer(event: SessionEvent, job: Job) -> None:
        if event is SessionEvent.STORED:
            stored.append(job.shot.id)

    settings = {"downloads_at_once": 1, "download_min_bytes_per_second": 20_000}
    report = await harness.run(film(dripping, *others), observer=observer, **settings)
    assert statuses(report) == ["stored"] * 3
    assert stored[-1] == "shot-1"
    assert harness.paid == (3, 3)
