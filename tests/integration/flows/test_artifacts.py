"""What a run shows in Prefect, when its parts take their time."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.artifacts import Artifact, acreate_progress_artifact

from prefect_video.flows import artifacts
from prefect_video.pipeline.reports import ShotReport
from prefect_video.shots import Project

PROJECT = Project.model_validate(
    {"project": "Slow", "shots": [{"id": name, "prompt": name} for name in ("one", "two")]}
)


async def test_a_run_that_ends_while_its_progress_is_made_shows_it_once(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    written: list[float] = []

    async def create_slowly(**given: Any) -> UUID:
        written.append(given["progress"])
        begun.set()
        await may_go_on.wait()
        return await acreate_progress_artifact(**given)

    monkeypatch.setattr(artifacts, "acreate_progress_artifact", create_slowly)

    @flow
    async def run() -> None:
        async with artifacts.Progress(PROJECT) as progress:
            progress.shot_ended(ShotReport(id="one", status="stored"))
            await begun.wait()
            progress.shot_ended(ShotReport(id="two", status="stored"))
            asyncio.get_running_loop().call_soon(may_go_on.set)

    await run()
    assert written == [50.0]
    shown = await Artifact.aget(key=artifacts.artifact_key("progress", "Slow"))
    assert shown is not None
    assert shown.data == 100.0


def test_different_names_have_different_keys() -> None:
    assert artifacts.artifact_key("video", "film", "opening-2") == "video-film-opening-2"
    keys = {artifacts.artifact_key("video", "film", name) for name in ("a-1", "A_1", "a.1", "A-1")}
    assert len(keys) == 4
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
