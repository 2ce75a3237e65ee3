"""Real runs: the installed command with a Prefect server and the embedded provider."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli_fixtures import FILM, TRACES, InProcess, Shell


@pytest.fixture(scope="module")
def project_file(connected: Shell) -> Path:
    path = connected.folder / "film.yaml"
    path.write_text(
        FILM
        + '  - {id: refused, prompt: "the [policy] sea"}\n'
        + "  - {id: after, prompt: after it, depends_on: [refused]}\n"
    )
    return path


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
    assert process.wait(timeout=500) == 0


@pytest.mark.parametrize(
    ("options", "name"), [(("--speed", "0"), "speed"), (("--faults", "nowhere.yaml"), "faults"), (("--key", ""), "key")]
)
def test_the_emulator_refuses_bad_options(call: InProcess, options: tuple[str, ...], name: str) -> None:
    answer = call("emulator", *options)
    assert answer.status == 2
    assert f"--{name}" in answer.err
