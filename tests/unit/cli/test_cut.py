"""`cut` on the command line: refused with the list of what is missing, made, found again, part of a run's report."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect_video import SessionRef, load_project, open_session, run_project
from tests.support.cli_fixtures import FILM, InProcess

CUT = """\
cut:
  title_card: {text: Hello, seconds: 1}
  encoder: {codec: libx264, preset: ultrafast}
"""


async def make_shots(film: Path) -> None:
    project = load_project(film).model_copy(update={"cut": None})
    async with await open_session(SessionRef.from_names("emulator", "videos")) as session:
        await run_project(session, project)


def test_cut_makes_the_film_of_what_is_stored(call: InProcess, film: Path) -> None:
    options = (film, "--provider", "emulator", "--store", "videos")
    assert "has no `cut:`" in call("cut", *options).err
    film.write_text(FILM + CUT)
    refused = call("cut", *options)
    assert (refused.status, refused.out) == (1, "")
    assert "2 of the shots in the cut are not stored, or not chosen: opening, closing" in refused.err
    assert call("plan", *options, "--json").json["film_seconds"] == 4.0

    asyncio.run(make_shots(film))
    made = call("cut", *options, "--json")
    assert (made.status, made.json["status"], made.json["error"]) == (0, "made", None)
    assert Path("videos/film/manifest.json").exists()
    shown = call("cut", *options)
    assert shown.status == 0
    assert "film 4.0 s  videos/film/film." in shown.out
    report = call("run", *options, "--json")
    assert report.status == 0
    assert report.json["film"] == {**made.json, "status": "cached"}
    assert call("verify", "videos").status == 0

    # What cannot be made any more is bad input, and the shots stay as they are.
    film.write_text(FILM + CUT + "  music: absent.mp3\n")
    broken = call("run", *options, "--json")
    assert broken.status == 2
    assert "film.yaml:9: cut: absent.mp3: there is no such file" in broken.json["error"].replace(
        f"{film.parent.resolve()}/", ""
    )
