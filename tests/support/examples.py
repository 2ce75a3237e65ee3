"""The examples, and the environment that they are run in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example_environment(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Give the examples a home and a working folder of their own, and the emulator of this test."""
    for name in [name for name in os.environ if name.startswith(("SORA_", "PREFECT_VIDEO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_ENDPOINT", emulator.endpoint)
    monkeypatch.setenv("PREFECT_VIDEO_EMULATOR_KEY", emulator.key)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def run_python(*arguments: str) -> str:
    """Run Python in a process of its own and return what it prints."""
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=500, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def stored_videos(folder: Path) -> list[Path]:
    """Find the videos of a store on local disk."""
    return [path for path in sorted(folder.rglob("*.mp4")) if path.stat().st_size > 10_000]
