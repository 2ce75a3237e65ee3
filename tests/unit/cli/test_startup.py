"""The start of commands and of a run: what they import, which is most of what a short one costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_video.emulator.threaded import Emulator
from tests.support.cli_fixtures import InProcess
from tests.unit.cli.test_plan import run_file

HEAVY = (
    "PIL", "aiobotocore", "alembic", "asyncpg", "av", "botocore", "fastapi", "prefect", "s3fs",
    "sqlalchemy.dialects.postgresql", "starlette", "uvicorn",
)  # fmt: skip
CALL = f"""
import json, sys
from prefect_video.cli import main

status = main(sys.argv[1:])
json.dump([name for name in {HEAVY!r} if name in sys.modules], sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize(("command", "is_embedded"), [("run", False), ("plan", True), ("jobs", False)])
def test_what_the_ledger_answers_needs_neither_prefect_nor_anything_else_heavy(
    call: InProcess,
    film: Path,
    quick_emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    is_embedded: bool,
) -> None:
    run_file(film)
    requests = quick_emulator.usage()["requests"]
    # Nothing answers there, and nothing is asked.
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    if is_embedded:
        # An emulator of this process would be started by the first request.
        monkeypatch.delenv("PREFECT_VIDEO_EMULATOR_ENDPOINT")
    arguments = [command, *([film] if command != "jobs" else []), "--json"]
    completed = subprocess.run(
        [sys.executable, "-c", CALL, *arguments], capture_output=True, text=True, timeout=500, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stderr.splitlines()[-1]) == []
    answer = json.loads(completed.stdout)
    if command == "run":
        assert [(shot["status"], shot["cached"]) for shot in answer["shots"]] == [("stored", True)] * 2
        assert answer["cost_usd"] == 0
    assert quick_emulator.usage()["requests"] == requests


def test_the_process_of_a_run_imports_what_one_flow_needs_and_nothing_of_receivers() -> None:
    code = (
        "import prefect, sys; before = set(sys.modules); from prefect_video.flows import generate_project;"
        f" print(*(set(sys.modules) - before) & {{*{HEAVY!r}, 'cryptography', 'prefect_video.experiments'}} - {{'prefect'}})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_a_default_of_ours_leaves_the_value_of_a_prefect_profile(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('active = "own"\n[profiles.own]\nPREFECT_LOGGING_LEVEL = "ERROR"\n')
    code = """
from prefect_video.cli import prefect_startup
prefect_startup._set_defaults()
from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_SERVER_ANALYTICS_ENABLED
print(PREFECT_LOGGING_LEVEL.value(), PREFECT_SERVER_ANALYTICS_ENABLED.value())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PREFECT_HOME": str(tmp_path)},
    )
    assert found.stdout.split() == ["ERROR", "False"]
