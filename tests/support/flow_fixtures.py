"""What a flow needs beside the session's Prefect server."""

from pathlib import Path

import pytest

from prefect_video.emulator import Emulator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def session(prefect_api: str, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
