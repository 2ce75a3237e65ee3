"""What a run shows in Prefect, when its parts take their time."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.artifacts import Artifact, acreate_progress_artifact, aupdate_progress_artifact

from prefect_video.flows import artifacts
from prefect_video.pipeline.reports import FilmReport, ProjectReport, ShotReport
from prefect_video.projects import Project
from prefect_video.tasks import artifact_key, asset_key, write_storyboard
from tests.support.records import an_asset

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
    shown = await Artifact.aget(key=artifact_key("progress", "Slow"))
    assert shown is not None
    assert shown.data == 100.0


async def test_the_ends_of_many_shots_are_written_as_one_change(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    first = asyncio.Event()
    monkeypatch.setattr(artifacts, "PAUSE_SECONDS", 3600.0)

    async def create(**given: Any) -> UUID:
        written.append(given["progress"])
        created = await acreate_progress_artifact(**given)
        first.set()
        return created

    async def update(artifact_id: UUID, progress: float) -> UUID:
        written.append(progress)
        return await aupdate_progress_artifact(artifact_id, progress=progress)

    monkeypatch.setattr(artifacts, "acreate_progress_artifact", create)
    monkeypatch.setattr(artifacts, "aupdate_progress_artifact", update)
    many = Project.model_validate({"project": "Many", "shots": [{"id": f"s{n}", "prompt": "x"} for n in range(40)]})

    @flow
    async def run() -> None:
        async with artifacts.Progress(many) as progress:
            progress.shot_ended(ShotReport(id="s0", status="stored"))
            await first.wait()
            for number in range(1, 40):
                progress.shot_ended(ShotReport(id=f"s{number}", status="stored"))
                await asyncio.sleep(0)

    await run()
    assert written == [2.5, 100.0]


async def test_a_run_is_one_storyboard_with_a_link_to_each_video(prefect_api: str) -> None:
    shots = [
        ShotReport(id="one*[x]", status="stored", uri="s3://bucket/a <b>.mp4"),
        ShotReport(id="two", status="stored", uri="file:///videos/two.mp4", cost_usd=None),
        ShotReport(id="before", status="stored", uri="file:///videos/before.mp4", cached=True),
        ShotReport(id="none", status="failed", error="no"),
    ]

    @flow
    async def run() -> None:
        report = ProjectReport(project="Links", shots=tuple(shots), seconds=1.0)
        await artifacts.publish_table(report, {"file:///videos/two.mp4": "https://films.example/two.mp4"})

    await run()
    shown = await Artifact.aget(key=artifact_key("videos", "Links"))
    assert shown is not None
    assert str(shown.data).splitlines() == [
        "**Links**: 3 of 4 stored, price unknown",
        "",
        "| | shot | status | length | paid | prompt |",
        "| --- | --- | --- | --- | --- | --- |",
        r"|  | [one\*\[x\]](<s3://bucket/a %3Cb%3E.mp4>) | stored |  | — |  |",
        "|  | [two](<https://films.example/two.mp4>) | stored |  | price unknown |  |",
        "|  | [before](<file:///videos/before.mp4>) | cached |  | — |  |",
        "|  | none | failed |  | — | no |",
    ]
    table = await Artifact.aget(key=artifacts.artifact_key("shots", "Links"))
    assert table is not None
    assert "3 of 4 stored (1 cached), price unknown" in str(table.description)
    assert [row["paid USD"] for row in json.loads(str(table.data))] == ["0", "price unknown", "0", "0"]


async def test_hostile_text_commands_no_artifact(prefect_api: str) -> None:
    hostile = "no\r\nerror: paid \x1b[31mtwice\u2028\u202e <img src=x onerror=alert(1)>"
    shot = ShotReport(id="a", status="failed", error=hostile, prompt=hostile)

    @flow
    async def run() -> None:
        await artifacts.publish_table(ProjectReport(project="Hostile", shots=(shot,), seconds=1.0), {})

    await run()
    for kind in ("videos", "shots"):
        shown = await Artifact.aget(key=artifact_key(kind, "Hostile"))
        assert shown is not None
        # The table is JSON, whose own escapes are characters once it is read.
        text = shown.data if kind == "videos" else json.loads(str(shown.data))[0]["error"]
        assert "twice" in text
        assert set("\r\x1b\u2028\u202e").isdisjoint(text)
        assert "<" not in text.replace("\\<", "") or kind == "shots"


def test_a_still_leads_to_its_video_where_the_store_has_addresses() -> None:
    asset = an_asset(uri="s3://films/a.mp4", thumbnail_uri="s3://films/a.jpg", duration_seconds=4.0)
    shot = ShotReport(id="a", status="stored", uri=asset.uri, asset=asset, cost_usd=Decimal("0.40"))
    film = FilmReport(status="made", uri="s3://films/film.mp4", seconds=4.0)
    report = ProjectReport(project="Stills", shots=(shot,), seconds=1.0, film=film, page_uri="s3://films/index.html")
    names = ("a.mp4", "a.jpg", "film.mp4", "index.html")
    head, *_, row = write_storyboard(
        report, {f"s3://films/{name}": f"https://cdn.example/{name}" for name in names}
    ).splitlines()
    assert head.endswith(
        "$0.40 paid, [the final cut](<https://cdn.example/film.mp4>), [the page](<https://cdn.example/index.html>)"
    )
    video = "<https://cdn.example/a.mp4>"
    assert row == f"| [![](<https://cdn.example/a.jpg>)]({video}) | [a]({video}) | stored | 4.0 s | $0.40 | a cat |"


def test_different_names_have_different_keys() -> None:
    assert artifact_key("video", "film", "opening-2") == "video-film-opening-2"
    keys = {artifact_key("video", "film", name) for name in ("a-1", "A_1", "a.1", "A-1")}
    assert len(keys) == 4
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)


def test_a_key_of_an_asset_has_no_character_that_prefect_refuses() -> None:
    from prefect.assets import Asset

    uri = "file:///my%20films/#1/a&b?c'd\"e<f>.mp4"
    assert Asset(key=asset_key(uri)).key == "file:///my_20films/_1/a_b_c_d_e_f_.mp4"
    assert len(asset_key("s3://bucket/" + "x" * 600 + "/opening.mp4")) < 512
