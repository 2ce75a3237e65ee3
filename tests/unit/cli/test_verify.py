"""`verify`, and `run` on a store that is empty; by the provider's usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.emulator.threaded import Emulator
from tests.support.cli_fixtures import InProcess
from tests.unit.cli.test_plan import run_file


@pytest.fixture
def videos(call: InProcess, film: Path) -> Path:
    """Run a film of two shots, and return its store."""
    run_file(film)
    return Path("videos")


def test_a_whole_store_is_exit_status_0(call: InProcess, videos: Path) -> None:
    answer = call("verify", videos, "--json")
    assert answer.status == 0, answer.err
    assert (answer.json["whole"], answer.json["assets"], answer.json["unknown_files"]) == (True, 2, [])
    assert "2 of 2 videos whole" in call("verify").out


def test_what_is_wrong_is_exit_status_1_and_is_repaired_free(
    call: InProcess, videos: Path, quick_emulator: Emulator
) -> None:
    billed = quick_emulator.usage()["billed"]
    first, second = sorted(videos.glob("film/*.mp4"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:1000])
    (videos / "film" / "unknown.mp4").write_bytes(b"no job")
    answer = call("verify", "--json")
    assert answer.status == 1
    assert sorted(flaw["problem"] for flaw in answer.json["flaws"]) == ["damaged", "missing"]
    shown = call("verify")
    assert shown.status == 1
    assert "0 of 2 videos whole; 1 file that no job knows" in shown.out
    assert "--repair" in shown.err

    repaired = call("verify", "--repair", "--json", videos)
    assert repaired.status == 0, repaired.err
    assert [flaw["repaired"] for flaw in repaired.json["flaws"]] == [True, True]
    assert call("verify").status == 0
    assert quick_emulator.usage()["billed"] == billed


@pytest.mark.parametrize("json", [False, True])
def test_a_run_on_an_empty_mount_point_ends_with_the_reason(
    call: InProcess, film: Path, videos: Path, quick_emulator: Emulator, *, json: bool
) -> None:
    usage = quick_emulator.usage()
    videos.rename("volume")
    videos.mkdir()
    for command in ("run", "plan"):
        answer = call(command, film, *(["--json"] if json else []))
        assert answer.status == 1
        reason = answer.json["error"] if json else answer.err.replace("\n", " ")
        assert "has no marker" in reason
        assert "--rebuy-missing" in reason
    assert quick_emulator.usage() == usage
    assert list(videos.iterdir()) == []
    assert {job["state"] for job in call("jobs", "--json").json["jobs"]} == {"stored"}


def test_a_video_that_was_deleted_on_purpose_is_settled_one_by_one(
    call: InProcess, film: Path, videos: Path, quick_emulator: Emulator
) -> None:
    jobs = {job["shot"]: job["id"] for job in call("jobs", "--json").json["jobs"]}
    usage = quick_emulator.usage()
    first, second = sorted(videos.glob("film/*.mp4"))
    deleted, kept = first.name.partition(".")[0], second.name.partition(".")[0]
    refused = call("resolve", jobs[deleted], "--give-up")
    assert refused.status == 2
    assert "is whole: nothing was changed" in refused.err.replace("\n", " ")

    first.unlink()
    second.rename(volume := Path("kept.mp4"))
    outage = call("plan", film)
    assert outage.status == 1
    advice = f"prefect-video resolve {jobs[deleted]} --give-up", f"prefect-video resolve {jobs[kept]} --give-up"
    assert any(command in outage.err.replace("\n", " ") for command in advice)
    quick_emulator.add_fault(operation="retrieve", kind="quota_exhausted", times=2)
    unrepaired = call("verify", "--repair")
    assert unrepaired.status == 1
    assert any(command in unrepaired.err.replace("\n", " ") for command in advice)

    answer = call("resolve", jobs[deleted][:8], "--give-up")
    assert answer.status == 0, answer.err
    assert "--buy-again" in answer.out
    volume.rename(second)
    assert call("verify").status == 0, "what is given up is not missed"
    run_file(film)
    states = {job["shot"]: job["state"] for job in call("jobs", "--json").json["jobs"]}
    assert states == {deleted: "lost", kept: "stored"}
    assert quick_emulator.usage()["billed"] == usage["billed"]

    assert "--generation gen_" in call("resolve", jobs[deleted], "--buy-again").out
    run_file(film)
    assert quick_emulator.usage()["billed"] == usage["billed"] + 1, "it was decided to buy it again"


def test_a_deleted_video_that_is_wanted_again_is_fetched_free(
    call: InProcess, film: Path, videos: Path, quick_emulator: Emulator
) -> None:
    usage = quick_emulator.usage()
    (job, *_) = call("jobs", "--json").json["jobs"]
    (video,) = videos.glob(f"film/{job['shot']}.*.mp4")
    whole = video.read_bytes()
    video.unlink()
    answer = call("resolve", job["id"], "--buy-again")
    assert answer.status == 0, answer.err
    assert "fetches it again, free" in answer.out
    assert call("collect").status == 0
    assert video.read_bytes() == whole
    assert quick_emulator.usage()["billed"] == usage["billed"]


def test_nothing_is_given_up_in_a_store_that_is_not_there(call: InProcess, videos: Path) -> None:
    (job, *_) = call("jobs", "--json").json["jobs"]
    videos.rename("volume")
    videos.mkdir()
    answer = call("resolve", job["id"], "--give-up")
    assert answer.status == 1
    assert "has no marker" in answer.err.replace("\n", " ")
    assert {job["state"] for job in call("jobs", "--json").json["jobs"]} == {"stored"}


def test_a_folder_inside_the_store_is_no_store(call: InProcess, videos: Path) -> None:
    for wrong in (".", videos / "film"):
        for command in ("verify", wrong), ("verify", wrong, "--repair"), ("ledger", "recover", "--store", wrong):
            answer = call(*command)
            assert answer.status == 1
            assert f"Use the address {videos.resolve().as_uri()};" in answer.err.replace("\n", " ")
