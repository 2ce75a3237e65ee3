"""`approve`, and runs and plans of rows: from the command line, without Prefect."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect_video.emulator.threaded import Emulator
from prefect_video.pipeline import ProjectReport, run_project
from prefect_video.projects import Project
from prefect_video.rows import project_from_rows
from prefect_video.session import SessionRef, open_session
from tests.support.cli_fixtures import InProcess


def make(project: Project) -> ProjectReport:
    """Make a project with the emulator, without Prefect."""

    async def produce() -> ProjectReport:
        async with await open_session(SessionRef.from_names("emulator")) as session:
            return await run_project(session, project)

    return asyncio.run(produce())


def test_takes_are_listed_and_chosen(call: InProcess, quick_emulator: Emulator) -> None:
    shot = {"id": "opening", "prompt": "a harbour", "duration": 1, "resolution": "480p", "takes": 2, "choose": "human"}
    project = Project.model_validate({"project": "film", "shots": [shot]})
    assert call("approve", "film", "--json").json == {"project": "film", "shots": []}
    make(project)
    (listed,) = call("approve", "film", "--json").json["shots"]
    assert (listed["id"], listed["pending"], [take["take"] for take in listed["takes"]]) == ("opening", True, [1, 2])
    assert "to be chosen" in call("approve", "film").out

    assert call("approve", "film", "opening", "--take", "3").status == 2
    assert call("approve", "film", "opening", "--take", "1", "--drop").status == 2
    assert call("approve", "film", "closing", "--take", "1").status == 2
    assert "take 2 is chosen" in call("approve", "film", "opening", "--take", "2").out
    assert call("approve", "film", "--json").json["shots"][0]["chosen"] == 2
    assert [report.choice for report in make(project).shots] == ["rejected", "chosen"]

    redone = call("approve", "film", "opening", "--prompt", "a harbour in fog", "--json").json
    assert (redone["prompt"], redone["new_prompt"], redone["take"]) == ("a harbour", "a harbour in fog", None)
    assert "dropped" in call("approve", "film", "opening", "--drop").out


def test_rows_are_planned_and_come_back_with_their_columns(call: InProcess, quick_emulator: Emulator) -> None:
    Path("shots.csv").write_text("sku,animal,status\n1,cat,new\n2,dog,\n")
    Path("t.yaml").write_text(
        "project: ads\ndefaults: {duration: 1, resolution: 480p}\nshot: {id: 'ad-{sku}', prompt: 'a {animal}'}\n"
    )
    planned = call("plan", "shots.csv", "--template", "t.yaml", "--json").json
    assert [(shot["id"], shot["prompt"]) for shot in planned["shots"]] == [("ad-1", "a cat"), ("ad-2", "a dog")]
    refused = call("plan", "t.yaml", "--template", "t.yaml")
    assert (refused.status, "rows are read from" in refused.err) == (2, True)

    first, second = make(project_from_rows("shots.csv", "t.yaml")).to_rows()
    assert first.keys() == second.keys()
    assert (first["project"], first["id"], first["take"], first["status"], first["cost_usd"]) == (
        "ads",
        "ad-1",
        1,
        "stored",
        0.3,
    )
    assert not any(isinstance(value, dict | list) for value in first.values())
    assert (first["sku"], first["animal"], first["input_status"]) == ("1", "cat", "new")
    assert (second["sku"], second["prompt"], second["input_status"]) == ("2", "a dog", None)
    assert first["uri"].endswith(".mp4")
    assert first["duration_seconds"] == 1.0
