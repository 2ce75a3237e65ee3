"""The project flow with a final cut: a task of its own, part of the report, and a failed flow where it cannot be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact

from prefect_video import Project
from prefect_video.emulator import Emulator
from prefect_video.errors import ProjectFailed
from prefect_video.flows import collect_generations, generate_project
from prefect_video.pipeline import ProjectReport
from prefect_video.tasks import artifact_key, events
from tests.support.task_runs import await_task_runs


def a_project(**cut: object) -> Project:
    shots = [{"id": "one", "prompt": "one"}, {"id": "two", "prompt": "two"}]
    quick = {"codec": "libx264", "preset": "ultrafast"}
    defaults = {"duration": 1, "resolution": "480p"}
    return Project.model_validate(
        {"project": "film", "defaults": defaults, "shots": shots, "cut": {"encoder": quick, **cut}}
    )


async def test_the_flow_ends_with_the_film(session: Path, emulator: Emulator) -> None:
    state = await generate_project(a_project(), return_state=True)
    report = await state.result()  # type: ignore[misc]
    assert isinstance(report, ProjectReport)
    assert report.film is not None
    assert (report.film.status, report.film.seconds) == ("made", pytest.approx(2.0, abs=0.1))
    tasks = await await_task_runs(state.state_details.flow_run_id, 11)
    assert "cut film" in {task.name for task in tasks}

    # The flow fails where its film does; the shots are stored, and nothing is paid again.
    damaged = Path(str(report.shots[0].uri).removeprefix("file://"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    with pytest.raises(ProjectFailed, match=r"film: failed: clip 'one': .* is damaged.*The shots are stored") as failed:
        await generate_project(a_project(end_card="The end"))
    assert [shot.status for shot in failed.value.report.shots] == ["stored", "stored"]
    assert emulator.usage()["billed"] == 2


async def test_what_a_deferred_project_has_waited_for_follows_collect_and_is_announced_once(
    session: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: announced.append(event))
    project = a_project().model_copy(update={"name": "deferred"})
    emulator.change_speed(0.01)
    left = await generate_project(project, wait=False)
    assert {shot.status for shot in left.shots} == {"in_flight"}
    emulator.change_speed(100_000)
    emulator.wait_until_idle()
    for _ in range(2):
        await collect_generations()
    (event,) = announced
    assert event["event"] == "video.project.completed"
    assert event["payload"]["film"].endswith(".mp4")
    assert "deferred: 2 of 2 stored" in event["payload"]["detail"]
    assert list((session / "videos" / "deferred").glob("film.*.mp4"))
    storyboard = await Artifact.aget(key=artifact_key("videos", "deferred"))
    assert storyboard is not None
    assert "the final cut" in str(storyboard.data)
