"""What Prefect's cache answers for `generate_video`: the newest video, and only one that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.states import State

from prefect_video import Asset, Shot
from prefect_video.emulator import Emulator
from prefect_video.tasks import agenerate_video, generate_video

SHOT = Shot(id="cached", prompt="once more", duration=1, resolution="480p")


@flow
async def embedding(**options: Any) -> tuple[str, Asset]:
    """One call as a flow run of its own; the name of its end and the video."""
    state: State[Asset] = await agenerate_video(SHOT, return_state=True, **options)
    return state.name or "", await state.aresult()


def path_of(asset: Asset) -> Path:
    return Path(asset.uri.removeprefix("file://"))


async def test_a_file_that_is_gone_is_fetched_again_and_then_cached(session: Path, emulator: Emulator) -> None:
    _, first = await embedding()
    path_of(first).unlink()
    name, again = await embedding()
    assert (name, path_of(again).exists()) == ("Completed", True)
    assert await embedding() == ("Cached", again)
    assert emulator.usage()["billed"] == 1


async def test_what_a_refresh_made_is_what_the_next_call_returns(session: Path, emulator: Emulator) -> None:
    _, first = await embedding()
    name, fresh = await embedding(refresh=True)
    assert name == "Completed"
    assert fresh.generation_id != first.generation_id
    assert await embedding() == ("Cached", fresh)
    assert emulator.usage()["billed"] == 2


async def test_each_environment_has_its_own(session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    await embedding()
    monkeypatch.setenv("PREFECT_VIDEO_ENVIRONMENT", "staging")
    name, _ = await embedding()
    assert name == "Completed"
    assert emulator.usage()["billed"] == 2


async def test_what_is_too_old_is_made_again(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await embedding()
    assert (await embedding())[0] == "Cached"
    monkeypatch.setenv("PREFECT_VIDEO_TTL_SECONDS", "0")
    assert (await embedding())[0] == "Completed"
    assert emulator.usage()["billed"] == 2


def test_a_wrong_setting_does_not_keep_the_tasks_from_being_imported() -> None:
    environment = {**os.environ, "PREFECT_VIDEO_TTL_SECONDS": "abc"}
    subprocess.run([sys.executable, "-c", "import prefect_video.tasks"], env=environment, check=True)


def test_a_sync_flow_is_answered_the_same_way(session: Path, emulator: Emulator) -> None:
    @flow
    def generate() -> tuple[str, Asset]:
        state: State[Asset] = generate_video(SHOT, return_state=True)
        return state.name or "", state.result()

    assert generate()[0] == "Completed"
    assert generate()[0] == "Cached"
    path_of(generate()[1]).unlink()
    assert generate()[0] == "Completed"
    assert emulator.usage()["billed"] == 1


async def test_without_a_key_the_ledger_answers(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = await embedding()

    def broken(*_: object) -> bool:
        raise RuntimeError("the result store is broken")

    monkeypatch.setattr("prefect_video.tasks.cache_policy._is_usable", broken)
    assert await embedding() == ("Completed", first)
    assert emulator.usage()["billed"] == 1


async def test_a_video_older_than_the_settings_allow_is_made_again(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await embedding()
    monkeypatch.setenv("PREFECT_VIDEO_TTL_SECONDS", "0")
    name, again = await embedding()
    assert name == "Completed"
    monkeypatch.setenv("PREFECT_VIDEO_TTL_SECONDS", "3600")
    assert await embedding() == ("Cached", again)
    assert emulator.usage()["billed"] == 2
