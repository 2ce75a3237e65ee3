"""Real runs in a home that was empty: the installed command starts Prefect's embedded server itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading

import av
import pytest

from tests.support.cli_fixtures import TRACES, Answer, Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Return a shell of this file alone, as its first command is to find an empty home."""
    return Shell(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def first_demo(shell: Shell) -> Answer:
    return shell("demo", "--into", "show")


def test_the_demo_works_in_an_empty_home_and_shows_nothing_ugly(first_demo: Answer, shell: Shell) -> None:
    assert first_demo.status == 0, first_demo.err
    assert not TRACES.search(first_demo.err + first_demo.out)
    assert "starting Prefect's embedded server" in first_demo.err
    assert "3 generations billed" in first_demo.out
    assert (shell.folder / "show" / "videos" / "demo" / "index.html").as_uri() in first_demo.out


@pytest.mark.usefixtures("first_demo")
def test_the_demos_videos_match_the_request(shell: Shell) -> None:
    folder = shell.folder / "show" / "videos" / "demo"
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {}
    for line in manifest["shots"]:
        (take,) = line["takes"]
        path = folder / take["video"]["path"]
        assert path.stat().st_size == take["video"]["bytes"]
        with av.open(str(path)) as video:
            frames = sum(1 for _ in video.decode(video=0))
            stream = video.streams.video[0]
            assert stream.average_rate is not None
            found[line["id"]] = (stream.width, stream.height, round(float(frames / stream.average_rate), 1))
    assert found == {"opening": (1280, 720, 4.0), "pour": (720, 1280, 5.0), "table": (480, 480, 3.0)}


@pytest.mark.usefixtures("first_demo")
def test_the_demos_page_needs_nothing_but_the_files_beside_it(shell: Shell) -> None:
    folder = shell.folder / "show" / "videos" / "demo"
    page = (folder / "index.html").read_text()
    links = re.findall(r'(?:src|href|poster)="([^"]*)"', page)
    assert len({link for link in links if link.endswith(".mp4")}) == 3
    for link in links:
        assert link.startswith(("data:", "#")) or (folder / link).is_file(), link
    assert not re.search(r"url\(['\"]?https?:|@import|<script src", page)


@pytest.mark.usefixtures("first_demo")
def test_the_demo_run_again_finds_everything_and_bills_nothing(shell: Shell) -> None:
    answer = shell("demo", "--into", "show", "--json")
    assert answer.status == 0, answer.err
    assert [shot["cached"] for shot in answer.json["shots"]] == [True, True, True]
    assert (answer.json["billed"], answer.json["cost_usd"]) == (0, 0)
    assert "starting Prefect" not in answer.err
    assert not TRACES.search(answer.err)


def test_ctrl_c_ends_a_run_at_once_with_the_next_step(shell: Shell) -> None:
    path = shell.folder / "slow.yaml"
    path.write_text("project: slow\nshots:\n  - {id: long, prompt: a slow river, duration: 20, resolution: 480p}\n")
    process = shell.start("run", path, "--json", PREFECT_VIDEO_EMULATOR_SPEED="0.1")
    errors = _read_until(process, "long: generating")
    os.killpg(process.pid, signal.SIGINT)
    out, rest = process.communicate(timeout=500)
    assert process.returncode == 130, errors + rest
    assert "prefect-video collect --wait" in json.loads(out)["error"]
    assert not TRACES.search(errors + rest)

    jobs = shell("jobs", "--project", "slow", "--json").json["jobs"]
    assert [job["state"] for job in jobs] == ["submitted"]
    cancelled = shell("cancel", "--project", "slow", "--json", PREFECT_VIDEO_EMULATOR_SPEED="0.1")
    assert cancelled.json["cancelled"][0]["state"] == "cancelled"


def _read_until(process: subprocess.Popen[str], line: str) -> str:
    """Read stderr up to a line; kill the process if the line does not come within two minutes."""
    assert process.stderr is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    output = ""
    while line not in output:
        if not (more := process.stderr.readline()):
            raise AssertionError(f"it ended without printing {line!r}: {output}")
        output += more
    watchdog.cancel()
    return output
