"""The README's examples: the Python is run as printed, and a real account makes what they ask for."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_video import Shot, load_project
from prefect_video.providers.capabilities import check_supported
from prefect_video.providers.pricing import SORA_PLANS
from prefect_video.storage import open_store

ROOT = Path(__file__).parents[2]


def printed(language: str, beginning: str) -> str:
    """The README's one example in a language that begins like this."""
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(rf"```{language}\n({re.escape(beginning)}.*?)```", text, re.DOTALL)
    return str(example)


@pytest.mark.parametrize("plan", SORA_PLANS)
def test_every_plan_of_a_real_account_makes_what_the_example_asks_for(plan: str) -> None:
    example = re.search(r"opening = (Shot\(.*\))", printed("python", "from prefect import flow"))
    assert example is not None
    check_supported(eval(example[1], {"Shot": Shot}), SORA_PLANS[plan], by=plan)


@pytest.mark.parametrize("plan", [plan for plan in SORA_PLANS if plan.startswith("api-tier")])
def test_every_api_plan_makes_the_project(plan: str, tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    path.write_text(printed("yaml", "# film.yaml"))
    for shot in load_project(path).shots:
        check_supported(shot, SORA_PLANS[plan], by=plan)


def test_the_example_runs_as_printed_and_pays_once(
    tmp_path: Path,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "report.py").write_text(printed("python", "from prefect import flow"))
    for name in [name for name in os.environ if name.startswith(("SORA_", "PREFECT_VIDEO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_SPEED", "200")
    monkeypatch.chdir(tmp_path)

    completed = subprocess.run([sys.executable, "report.py"], capture_output=True, text=True, timeout=120, check=True)
    uri = completed.stdout.strip().splitlines()[-1]
    assert Path(uri.removeprefix("file://")).stat().st_size > 10_000

    # Again in another process: this one, which has loaded Prefect already.
    runpy.run_path("report.py", run_name="__main__")
    assert capsys.readouterr().out.strip().splitlines()[-1] == uri
    assert "Cached" in caplog.text
    assert open_store(str(tmp_path / "videos")).owns(uri)
