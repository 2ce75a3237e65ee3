"""Stored videos as assets in Prefect, and the storyboard of a video that a flow of one's own has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import prefect.events
import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.assets import materialize
from prefect.context import get_run_context

from prefect_video.assets import Asset
from prefect_video.emulator.threaded import Emulator
from prefect_video.flows import generate_project
from prefect_video.projects import Project
from prefect_video.shots import Shot
from prefect_video.tasks import agenerate_video, artifact_key, asset_key

SHOT = Shot(id="opening", prompt="dawn over the sea", duration=1, resolution="480p")


@pytest.fixture
def materialized(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Record the assets that are materialized, by key, while the events go on to the server."""
    recorded: dict[str, dict[str, Any]] = {}
    emit = prefect.events.emit_event

    def record(event: str, resource: dict[str, str], **fields: Any) -> Any:
        if event == "prefect.asset.materialization.succeeded":
            recorded[resource["prefect.resource.id"]] = {**fields, "name": resource.get("prefect.resource.name")}
        return emit(event=event, resource=resource, **fields)

    monkeypatch.setattr(prefect.events, "emit_event", record)
    return recorded


@materialize("s3://reports/weekly.html")
def build_report(video: Asset) -> str:
    return video.uri


@flow
async def weekly_report() -> tuple[UUID, Asset]:
    video = await agenerate_video(SHOT, project="report")
    build_report(video)
    run = get_run_context().flow_run  # type: ignore[union-attr]
    return run.id, video


async def test_what_is_made_from_a_video_in_ones_own_flow_follows_from_it(
    session: Path, emulator: Emulator, materialized: dict[str, dict[str, Any]]
) -> None:
    _, video = await weekly_report()
    key = asset_key(video.uri)
    assert set(materialized) == {key, "s3://reports/weekly.html"}
    assert materialized[key]["name"] == "report/opening"
    assert materialized[key]["payload"]["sha256"] == video.sha256
    related = [resource["prefect.resource.id"] for resource in materialized["s3://reports/weekly.html"]["related"]]
    assert related == [key]
    shown = await Artifact.aget(key=artifact_key("video", "report", "opening"))
    assert shown is not None
    assert f"[opening](<{video.uri}>) | stored | 1.0 s | $" in str(shown.data)


async def test_a_project_materializes_each_video_once(
    session: Path, emulator: Emulator, materialized: dict[str, dict[str, Any]]
) -> None:
    project = Project(name="film", shots=(SHOT, SHOT.model_copy(update={"id": "closing", "prompt": "dusk"})))
    report = await generate_project(project)
    assert set(materialized) == {asset_key(str(shot.uri)) for shot in report.shots}
    assert report.page_uri is not None
    assert Path(report.page_uri.removeprefix("file://")).is_file()
    shown = await Artifact.aget(key=artifact_key("videos", "film"))
    assert shown is not None
    assert f"[the page](<{report.page_uri}>)" in str(shown.data)
