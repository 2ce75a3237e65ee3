"""Fixtures of flows: a folder, an account and an environment."""

from pathlib import Path

import pytest

from prefect_video.emulator import Emulator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session(prefect_api: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the environment to a ledger and a store in a new folder, and to an emulator as the Sora account; return it."""
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
