"""Quality gates: black, frozen and short videos are flagged or taken again; every paid one is kept."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from prefect_video.errors import BudgetExceeded, VideoRejected
from prefect_video.ledger import State
from prefect_video.pipeline import run_project
from prefect_video.pipeline.steps.accept import accept_rejected
from prefect_video.projects import Project
from tests.support.recovery import RecoveryHarness, a_shot, film, statuses

DEFECTS = {
    "black": ("black", "the picture is black for 100% of its length"),
    "frozen": ("frozen", "the picture stands still for 1.0 s"),
    "shorter": ("length", "requested 1 s, the video lasts 0.50 s"),
    "resized": ("size", "pixels, the video has"),
}


def gated(**changes: Any) -> Project:
    """Build a project of one shot, of which each kind of finding but sound is taken again."""
    policies = dict.fromkeys(("black", "frozen", "length", "size"), "retake")
    return film(a_shot(), **{"quality": {**policies, "length_tolerance_seconds": 0.1}, **changes})


async def test_without_the_section_nothing_is_decoded(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("measured without a quality section")

    monkeypatch.setattr(sys.modules["prefect_video.pipeline.steps.download"], "measure_content", measure)
    report = await harness.run(a_shot())
    assert statuses(report) == ["stored"]
    assert report.shots[0].quality is None


@pytest.mark.parametrize("alteration", DEFECTS)
async def test_a_defect_is_kept_and_taken_again(harness: RecoveryHarness, alteration: str) -> None:
    kind, detail = DEFECTS[alteration]
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration=alteration)
    report = await harness.run(gated())
    assert statuses(report) == ["stored"]
    assert harness.paid == (2, 2)
    rejected, stored = await harness.rows()
    assert (rejected.state, rejected.error_type, rejected.attempt) == (State.LOST, "VideoRejected", 1)
    assert (stored.state, stored.attempt) == (State.STORED, 2)
    assert rejected.quality is not None
    assert kind in {finding.kind for finding in rejected.quality.findings}
    (kept,) = harness.rejected
    assert detail in "; ".join(json.loads(kept.with_suffix(".json").read_bytes())["reasons"])
    assert stored.quality is not None
    assert (stored.quality.findings, stored.quality.score) == ((), 1.0)
    assert rejected.quality.score < 1
    # Both were paid by this run, and what was rejected can still be taken.
    assert report.cost_usd == sum(row.cost_usd or 0 for row in (rejected, stored))
    async with harness.session() as session:
        accepted = await accept_rejected(session, rejected)
    assert accepted.asset is not None
    assert accepted.asset.quality == rejected.quality


async def test_silence_counts_where_sound_was_asked_for(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="silent", times=2)
    quality = {"silent": "retake", "abrupt_end": "flag"}
    loud, quiet = a_shot(1, audio=True), a_shot(2)
    report = await harness.run(film(loud, quality=quality))
    assert (statuses(report), harness.paid) == (["held"], (2, 2))
    assert "its sound is below -50 dB for 100% of its length" in str(report.shots[0].error)
    report = await harness.run(film(a_shot(3, audio=True), quiet, quality=quality))
    assert (statuses(report), harness.paid) == (["stored"] * 2, (4, 4))
    ends = [[finding.kind for finding in shot.quality.findings] for shot in report.shots if shot.quality]
    # The emulator's tone does not fade; where there is no sound, none is cut off.
    assert ends == [["abrupt_end"], []]


async def test_a_flag_is_shown_and_stored(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)
    (shot,) = (await harness.run(gated(quality={}))).shots
    assert shot.quality is not None
    assert [finding.kind for finding in shot.quality.findings] == ["black"]
    assert shot.public()["quality"]["findings"][0]["detail"] == DEFECTS["black"][1]
    sidecar = json.loads(harness.videos[0].with_suffix(".json").read_bytes())
    assert sidecar["quality"]["findings"][0]["kind"] == "black"
    assert (await harness.row()).quality == shot.quality
    assert harness.paid == (1, 1)


async def test_the_last_attempt_is_held_and_no_run_buys_more(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)
    for _ in range(3):
        report = await harness.run(gated(max_attempts=2))
        assert statuses(report) == ["held"]
        assert "it was attempt 2 of 2" in str(report.shots[0].error)
        assert "--accept" in str(report.shots[0].error)
    assert len(harness.rejected) == 2
    assert harness.paid == (2, 2)


async def test_the_budget_ends_it(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)
    project = gated(max_attempts=5, budget_videos=1)
    report = await harness.run(project)
    assert statuses(report) == ["over_budget"]
    assert "--accept" in str(report.shots[0].error)
    with pytest.raises(BudgetExceeded, match="Nothing was sent"):
        await harness.run(project)
    assert harness.paid == (1, 1)
    assert len(harness.rejected) == 1


async def test_attempts_count_across_runs(harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies after it has rejected a video buys the next attempt, and not the first one again."""
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)

    class Killed(BaseException):
        pass

    async def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["prefect_video.pipeline.shot_run"], "claim_shot", die)
        with pytest.raises(Killed):
            await harness.run(gated(max_attempts=2))
    assert harness.paid == (1, 1)
    assert statuses(await harness.run(gated(max_attempts=2))) == ["held"]
    assert [row.attempt for row in await harness.rows()] == [1, 2]
    # Fewer attempts than are made already: nothing more is bought.
    assert statuses(await harness.run(gated(max_attempts=1))) == ["held"]
    assert harness.paid == (2, 2)


async def test_collect_buys_nothing(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black")
    async with harness.session() as session:
        await run_project(session, gated(), wait=False)
    (line,) = await harness.collect(wait=True)
    assert (line.outcome, VideoRejected.__name__) == ("ended without a video", line.job.error_type)
    assert harness.paid == (1, 1)
    assert statuses(await harness.run(gated())) == ["stored"]
    assert harness.paid == (2, 2)


async def test_two_runs_that_reject_the_same_video_buy_one_more(harness: RecoveryHarness) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)
    first, second = await asyncio.gather(harness.run(gated()), harness.run(gated()))
    assert (statuses(first), statuses(second)) == (["held"], ["held"])
    assert harness.paid == (2, 2)
    assert [row.attempt for row in await harness.rows()] == [1, 2]


async def test_a_failure_does_not_reset_the_count_of_rejected_videos(
    harness: RecoveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.emulator.add_fault(operation="content", kind="altered_file", alteration="black", times=None)

    class Killed(BaseException):
        pass

    async def die(*_: object, **__: object) -> None:
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["prefect_video.pipeline.shot_run"], "claim_shot", die)
            with pytest.raises(Killed):
                await harness.run(gated(max_attempts=3))
    harness.emulator.add_fault(operation="submit", kind="generation_error")
    assert statuses(await harness.run(gated(max_attempts=3))) == ["held"]
    assert len(harness.rejected) == 3
    # The failed one, and three that were rejected.
    assert harness.paid[0] == 4
