"""What cannot be made is said at once: which file, shot and field, with nothing sent and Prefect not started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefect_video.emulator.threaded import Emulator
from tests.support.cli_fixtures import InProcess


def project(*shots: str, head: str = "project: film") -> str:
    return "\n".join([head, "shots:", *(f"  - {shot}" for shot in shots), ""])


BAD_FILES = {
    "missing prompt": (project("{id: opening}"), ["opening", "prompt", "missing"]),
    "duration 0": (project("{id: opening, prompt: x, duration: 0}"), ["opening", "duration", "0"]),
    "duration 25": (project("{id: opening, prompt: x, duration: 25}"), ["opening", "duration", "25"]),
    "duration as text": (project('{id: opening, prompt: x, duration: "10s"}'), ["opening", "duration", "10s"]),
    "unknown field": (project("{id: opening, prompt: x, lenght: 5}"), ["opening", "lenght", "no such field"]),
    "duplicate ids": (project("{id: a, prompt: x}", "{id: a, prompt: y}"), ["'a'", "used twice"]),
    "a cycle": (
        project("{id: a, prompt: x, depends_on: [b]}", "{id: b, prompt: y, depends_on: [a]}"),
        ["depends_on", "circle"],
    ),
    "a path as id": (project('{id: "../../etc/passwd", prompt: x}'), ["id", "not a name"]),
    "a prompt of 1 MB": (project("{id: opening, prompt: " + "x" * 1_000_000 + "}"), ["opening", "prompt", "1,000,000"]),
    "invalid YAML": ("project: film\nshots: [{id: a\n", ["film.yaml", "not valid YAML"]),
    "no shots": ("project: film\nshots: []\n", ["shots", "at least one"]),
    "no mapping": ("- a\n- b\n", ["film.yaml", "mapping"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place(name: str, call: InProcess, quick_emulator: Emulator) -> None:
    text, expected = BAD_FILES[name]
    Path("film.yaml").write_text(text)
    submitted = quick_emulator.usage()["submitted"]

    answer = call("run", "film.yaml", "--json")

    assert answer.status == 2
    assert answer.json == {
        "project": "film" if text.startswith("project: film") and "invalid" not in name else None,
        "shots": [],
        "cost_usd": 0,
        "seconds": 0,
        "error": answer.json["error"],
    }
    for part in ["film.yaml", *expected]:
        assert part in answer.json["error"]
    assert len(answer.json["error"]) < 500
    assert answer.json["error"] in answer.err
    assert "Traceback" not in answer.err
    assert quick_emulator.usage()["submitted"] == submitted


def test_a_file_that_is_not_there_is_named(call: InProcess) -> None:
    answer = call("run", "nowhere.yaml")
    assert (answer.status, answer.out) == (2, "")
    assert "nowhere.yaml: cannot read the file" in answer.err


def test_a_folder_is_no_project_file(call: InProcess) -> None:
    Path("folder").mkdir()
    assert "folder: cannot read the file" in call("plan", "folder").err


def test_an_unsupported_field_is_reported_once_for_all_shots_with_the_file(call: InProcess) -> None:
    shots = [f"{{id: s{n}, prompt: x, references: [a.png]}}" for n in range(300)]
    Path("film.yaml").write_text(project(*shots))
    answer = call("run", "film.yaml", "--json")
    assert answer.status == 2
    assert answer.json["error"].startswith("film.yaml: shots 's0', 's1', 's2', 's3', 's4' and 295 more: ")
    assert len(answer.json["error"].splitlines()) == 1


def test_a_projects_unknown_provider_is_reported_with_file_and_field(call: InProcess) -> None:
    Path("film.yaml").write_text(project("{id: a, prompt: x}", head="project: film\nprovider: sore"))
    answer = call("run", "film.yaml", "--json")
    assert answer.status == 2
    assert answer.json["error"].startswith("film.yaml: provider: there is no provider 'sore'")
    assert answer.json["project"] == "film"


def test_an_unknown_provider_is_refused_with_a_list_of_the_known(call: InProcess, film: Path) -> None:
    answer = call("run", film, "--provider", "nope", "--json")
    assert answer.status == 2
    assert answer.json["project"] == "film"
    assert "'nope'" in answer.json["error"]
    assert "emulator" in answer.json["error"]


def test_a_provider_without_its_key_says_which_variables_to_set(call: InProcess, film: Path) -> None:
    answer = call("run", film, "--provider", "sora")
    assert answer.status == 2
    assert "SORA_API_KEY and SORA_API_ENDPOINT" in answer.err


def test_a_store_that_cannot_be_written_is_found_before_anything_is_sent(
    call: InProcess, film: Path, quick_emulator: Emulator
) -> None:
    submitted = quick_emulator.usage()["submitted"]
    answer = call("run", film, "--store", "film.yaml/videos", "--json")
    assert answer.status == 1
    assert "a part of the path is a file" in answer.json["error"]
    assert quick_emulator.usage()["submitted"] == submitted


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system")
def test_a_store_without_write_access_is_found_before_anything_is_sent(call: InProcess, film: Path) -> None:
    answer = call("run", film, "--store", "/proc/videos")
    assert answer.status == 1
    assert "store at /proc/videos" in answer.err


def test_a_full_disk_is_found_before_anything_is_sent(
    call: InProcess, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("videos").mkdir()
    real = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        in_store = mode == "xb" and "videos" in path.parts
        return real(Path("/dev/full"), "wb") if in_store else real(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    answer = call("run", film, "--store", "videos")
    assert answer.status == 1
    assert "the disk is full" in answer.err


def test_a_ledger_that_cannot_be_opened_stops_the_run(call: InProcess, film: Path) -> None:
    answer = call("run", film, "--ledger", "film.yaml/ledger.db", "--json")
    assert answer.status == 1
    assert "the ledger" in answer.json["error"]


def test_a_ledger_of_another_kind_of_database_is_bad_input(call: InProcess, film: Path) -> None:
    answer = call("run", film, "--ledger", "mysql://user:hunter2@host/db")
    assert answer.status == 2
    assert "hunter2" not in answer.err


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("run", "film.yaml", "--nope"), ("run", "film.yaml", "--max-in-flight", "many"), ("shot",), ("bogus",)],
)
def test_a_wrong_command_line_is_bad_input_and_points_to_the_help(call: InProcess, arguments: tuple[str, ...]) -> None:
    plain = call(*arguments)
    assert (plain.status, plain.out) == (2, "")
    assert "--help" in plain.err
    assert "Traceback" not in plain.err

    answer = call(*arguments, "--json")
    assert answer.status == 2
    assert answer.json["error"]
    assert ("shots" in answer.json) == (arguments[0] in ("run", "shot"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (("--duration", "10s"), "duration"),
        (("--duration", "25"), "duration"),
        (("--resolution", "8k"), "resolution"),
        (("--aspect-ratio", "4:3"), "aspect_ratio"),
        (("--id", "../up"), "id"),
        (("--project", "a/b"), "project"),
        (("--max-in-flight", "0"), "max_in_flight"),
    ],
)
def test_a_wrong_shot_is_bad_input(call: InProcess, options: tuple[str, ...], field: str) -> None:
    answer = call("shot", "a lighthouse", *options, "--json")
    assert answer.status == 2
    assert field in answer.json["error"]


def test_over_budget_is_refused_before_prefect_starts(call: InProcess, film: Path, quick_emulator: Emulator) -> None:
    film.write_text("budget_usd: 0.5\n" + film.read_text())
    submitted = quick_emulator.usage()["submitted"]
    answer = call("run", film, "--json")
    assert answer.status == 3
    assert "project film: the limit is $0.50" in answer.json["error"]
    assert quick_emulator.usage()["submitted"] == submitted


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["schema"], 0),
        (["plan", "film.yaml"], 0),
        (["jobs"], 0),
        (["run", "film.yaml", "--provider", "nope"], 2),
        (["optimize"], 0),
    ],
)
def test_prefect_is_not_imported_for_it(arguments: list[str], status: int, film: Path) -> None:
    script = (
        "import json, sys\n"
        "from prefect_video.cli import main\n"
        "status = main(json.loads(sys.argv[1]))\n"
        "assert 'prefect' not in sys.modules\n"
        "raise SystemExit(status)\n"
    )
    completed = subprocess.run([sys.executable, "-c", script, json.dumps(arguments)], capture_output=True, text=True)
    assert completed.returncode == status, completed.stderr
