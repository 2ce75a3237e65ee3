"""What a flow needs beside the session's Prefect server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator

ROOT = Path(__file__).parent.parent.parent

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def studio(prefect_api: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger and a store of its own, and an emulator as the Sora account; returns the folder."""
    for name, value in {
        "SORA_API_KEY": emulator.key,
        "SORA_API_ENDPOINT": emulator.endpoint,
        "SORA_PLAN": "emulator",
        "PREFECT_VIDEO_STORE": str(tmp_path / "videos"),
        "PREFECT_VIDEO_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
        "PREFECT_VIDEO_SETTLE_SECONDS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def prefect_cli(prefect_api: str) -> Cli:
    """Runs the `prefect` command against the session's server, in the repository's folder."""

    def run(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=ROOT,
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"prefect {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    return run
