"""One project file, unchanged, at every provider by its name: the one word that is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prefect_video.emulator import Emulator
from prefect_video.pipeline.entry_points import run_project
from prefect_video.polling.poller import Poller
from prefect_video.polling.schedule import PollSchedule
from prefect_video.project_files import load_project
from prefect_video.providers.registry import provider_names
from prefect_video.session import SessionRef, open_session

FILM = """
project: film
defaults: {duration: 4, resolution: 720p}
shots:
  - {id: opening, prompt: Dawn over a coffee plantation}
"""


@pytest.fixture(autouse=True)
def environment(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a team that has an account everywhere has set."""
    url, profiles = emulator.url, ("vllm_omni", "sglang", "trtllm", "litellm")
    values = {
        "PREFECT_VIDEO_EMULATOR_ENDPOINT": emulator.endpoint,
        "PREFECT_VIDEO_EMULATOR_KEY": emulator.key,
        "PREFECT_VIDEO_SPOOL": str(tmp_path / "spool"),
        "SORA_API_KEY": emulator.key,
        "SORA_API_ENDPOINT": emulator.endpoint,
        "OPENAI_API_KEY": emulator.key,
        "OPENAI_BASE_URL": f"{url}/v1",
        **{f"{name.upper()}_BASE_URL": f"{url}/profiles/{name}/v1" for name in profiles},
        **{f"{name.upper()}_API_KEY": emulator.key for name in profiles},
        "OPENROUTER_API_KEY": emulator.key,
        "OPENROUTER_BASE_URL": f"{url}/api/v1",
        "FAL_KEY": emulator.key,
        "FAL_QUEUE_URL": f"{url}/fal",
        "REPLICATE_API_TOKEN": emulator.key,
        "REPLICATE_BASE_URL": f"{url}/replicate",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", provider_names())
async def test_the_same_file_is_made_by_every_provider(name: str, tmp_path: Path, emulator: Emulator) -> None:
    file = tmp_path / "film.yaml"
    file.write_text(FILM)
    ref = SessionRef.from_names(name, str(tmp_path / "videos"), f"sqlite:///{tmp_path / 'ledger.db'}")
    async with await open_session(ref) as session:
        session.provider.capabilities = replace(session.provider.capabilities, seconds_per_video_second=(0.0, 0.05))
        session.poller = Poller(session.provider, schedule=PollSchedule(shortest_seconds=0.005))
        report = await run_project(session, load_project(file))
    assert [(shot.status, shot.error, shot.degraded) for shot in report.shots] == [("stored", None, None)]
    assert emulator.usage()["accepted"] == 1
