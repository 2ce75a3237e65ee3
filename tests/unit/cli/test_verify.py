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
    assert "0 of 2 videos whole; 1 files that no job knows" in shown.out
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
