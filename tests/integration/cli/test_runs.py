"""Real runs: the installed command in a home that was empty, with Prefect's server and the embedded provider."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import av
import pytest

from tests.support.cli_fixtures import FILM, Answer, InProcess, Shell

TRACES = re.compile(r"Traceback|database is locked|\| (?:INFO|ERROR|WARNING) +\||HTTP Request|alembic")


@pytest.fixture(scope="module")
def first_demo(shell: Shell) -> Answer:
    return shell("demo", "--into", "show")


@pytest.fixture(scope="module")
def project_file(connected: Shell) -> Path:
    path = connected.folder / "film.yaml"
    path.write_text(
        FILM
        + '  - {id: refused, prompt: "the [policy] sea"}\n'
        + "  - {id: after, prompt: after it, depends_on: [refused]}\n"
    )
    return path


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


def test_a_run_prints_one_json_object_and_a_failed_shot_fails_alone(connected: Shell, project_file: Path) -> None:
    answer = connected("run", project_file, "--json")
    assert answer.status == 1, answer.err
    report = answer.json
    assert set(report) == {"project", "shots", "cost_usd", "seconds"}
    assert set(report["shots"][0]) == {
        "id", "status", "uri", "sha256", "bytes", "cost_usd", "cached", "generation_id", "error"
    }  # fmt: skip
    assert [(shot["id"], shot["status"]) for shot in report["shots"]] == [
        ("opening", "stored"),
        ("closing", "stored"),
        ("refused", "failed"),
        ("after", "skipped"),
    ]
    assert "content policy. Change the prompt; see: prefect-video review" in report["shots"][2]["error"]
    assert report["cost_usd"] == 0.9
    assert "embedded emulator, as SORA_API_KEY is not set" in answer.err
    assert not TRACES.search(answer.err)


def test_one_shot_is_made_and_its_path_is_printed(connected: Shell) -> None:
    answer = connected("shot", "A lighthouse in fog", "--duration", "1", "--resolution", "480p", "--store", "out")
    assert answer.status == 0, answer.err
    made = re.search(r"out/shots/a-lighthouse-in-fog\.[\w.]+\.mp4", answer.out)
    assert made
    assert (connected.folder / made[0]).is_file()
    assert "1 of 1 stored (0 cached), $0.30 paid" in answer.out
    assert "DO_NOT_TRACK" not in answer.err


def test_ctrl_c_ends_a_run_at_once_with_the_next_step(shell: Shell) -> None:
    path = shell.folder / "slow.yaml"
    path.write_text("project: slow\nshots:\n  - {id: long, prompt: a slow river, duration: 20, resolution: 480p}\n")
    process = shell.start("run", path, "--json", PREFECT_VIDEO_EMULATOR_SPEED="0.1")
    errors = _read_until(process, "long: generating")
    os.killpg(process.pid, signal.SIGINT)
    out, rest = process.communicate(timeout=30)
    assert process.returncode == 130, errors + rest
    assert "prefect-video collect --wait" in json.loads(out)["error"]
    assert not TRACES.search(errors + rest)

    jobs = shell("jobs", "--project", "slow", "--json").json["jobs"]
    assert [job["state"] for job in jobs] == ["submitted"]
    cancelled = shell("cancel", "--project", "slow", "--json", PREFECT_VIDEO_EMULATOR_SPEED="0.1")
    assert cancelled.json["cancelled"][0]["state"] == "cancelled"


def test_a_prefect_api_that_does_not_answer_is_named_and_nothing_is_sent(connected: Shell, project_file: Path) -> None:
    answer = connected("run", project_file, "--refresh", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert answer.status == 1
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in answer.json["error"]
    assert "Nothing was sent" in answer.json["error"]
    assert not TRACES.search(answer.err)


def test_the_doctor_reports_each_fault_with_a_fix(connected: Shell) -> None:
    ill = connected(
        "doctor", "--json", "--provider", "sora", "--store", "/proc/videos", PREFECT_API_URL="http://127.0.0.1:9/api",
        SORA_API_KEY="sk-secret", SORA_API_ENDPOINT="http://127.0.0.1:9/v1/sora",
    )  # fmt: skip
    assert ill.status == 1
    assert {check["name"] for check in ill.json["checks"] if not check["ok"]} == {"prefect API", "provider", "store"}
    assert all(check["fix"] for check in ill.json["checks"] if not check["ok"])
    assert "sk-secret" not in ill.out + ill.err


def test_the_emulators_exports_satisfy_the_doctor(connected: Shell) -> None:
    process = connected.start("emulator", "--port", "0", "--speed", "500", "--key", "sk-own")
    assert process.stdout is not None
    lines = []
    while not any("faults" in line for line in lines):
        lines.append(process.stdout.readline())
    exports = dict(re.findall(r"export (\w+)=(\S+)", "".join(lines)))
    assert exports["SORA_API_KEY"] == "sk-own"

    healthy = connected("doctor", "--json", **exports)
    assert healthy.status == 0, healthy.out
    checks = {check["name"]: check for check in healthy.json["checks"]}
    assert set(checks) >= {"python", "prefect", "fastapi", "prefect API", "key", "provider", "store", "ledger"}
    assert checks["provider"]["detail"].startswith(f"sora at {exports['SORA_API_ENDPOINT']}")
    process.terminate()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("options", "name"), [(("--speed", "0"), "speed"), (("--faults", "nowhere.yaml"), "faults"), (("--key", ""), "key")]
)
def test_the_emulator_refuses_bad_options(call: InProcess, options: tuple[str, ...], name: str) -> None:
    answer = call("emulator", *options)
    assert answer.status == 2
    assert f"--{name}" in answer.err


def _read_until(process: subprocess.Popen[str], line: str) -> str:
    """Read stderr up to a line; kill the process if the line does not come within a minute."""
    assert process.stderr is not None
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    output = ""
    while line not in output:
        if not (more := process.stderr.readline()):
            raise AssertionError(f"it ended without printing {line!r}: {output}")
        output += more
    watchdog.cancel()
    return output
