"""Runs that begin at once in empty homes, on one ledger and one store: each gets its video, paid once."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator, EmulatorSettings
from tests.support.cli_fixtures import COMMAND

SECONDS = 600


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize(("number", "homes"), [(3, 2), pytest.param(8, 8, marks=pytest.mark.fleet)])
def test_runs_at_once_in_empty_homes_get_through_their_first_minute(tmp_path: Path, number: int, homes: int) -> None:
    # In the plain suite two homes only, of which one is shared: the first server of a home migrates its database, which
    # is most of the time that this takes.
    with Emulator(EmulatorSettings(port=0, speed=500, render="plate")) as provider, ExitStack() as stack:
        runs = [stack.enter_context(start(tmp_path, scene, provider, scene % homes)) for scene in range(number)]
        for run in runs:
            stack.callback(run.kill)
        answers = [run.communicate(timeout=SECONDS) for run in runs]
        for run, (out, err) in zip(runs, answers, strict=True):
            assert run.returncode == 0, out + err
            assert "1 of 1 stored" in out
        usage = provider.usage()
    assert (usage["accepted"], usage["billed"]) == (number, number)
    assert {name: paid["billed"] for name, paid in usage["by_prompt"].items()} == {
        f"scene {scene}": 1 for scene in range(number)
    }
    assert len(list(tmp_path.glob("home-*/.prefect/prefect.db"))) == homes
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == number


def start(folder: Path, number: int, provider: Emulator, home_number: int) -> subprocess.Popen[str]:
    home = folder / f"home-{home_number}"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": provider.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": provider.key,
        "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "PREFECT_VIDEO_STORE": str(folder / "videos"),
    }
    command = [str(COMMAND), "shot", f"scene {number}", "--provider", "emulator", "--duration", "1"]
    return subprocess.Popen(
        [*command, "--resolution", "480p"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
