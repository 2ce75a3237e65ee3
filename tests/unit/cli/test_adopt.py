"""`adopt`, and `clip` in a project file: free, and refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_video.emulator.threaded import Emulator
from prefect_video.errors import InvalidInput
from prefect_video.project_files import load_project
from tests.support.cli_fixtures import InProcess
from tests.support.clips import write_clip

WITH_CLIP = """\
project: film
shots:
  - id: stock
    clip: footage/sea.mp4
"""


def test_an_adopted_clip_is_cached_and_free(call: InProcess, film: Path, quick_emulator: Emulator) -> None:
    clip = write_clip(film.parent / "mine.mp4")
    requests = quick_emulator.usage()["requests"]
    answer = call("adopt", film, "opening", clip)
    assert answer.status == 0
    assert "at no cost" in answer.out
    assert "requested 2 s" in answer.out
    job = call("adopt", film, "opening", clip, "--json").json
    assert (job["state"], job["provider"], job["cost_usd"]) == ("stored", "manual", 0)
    assert [shot["action"] for shot in call("plan", film, "--json").json["shots"]] == ["cached", "generate"]
    assert [line["videos"] for line in call("spend", "--json").json["lines"]] == [0]
    assert quick_emulator.usage()["requests"] == requests


def test_what_cannot_be_adopted_is_named(call: InProcess, film: Path) -> None:
    clip = write_clip(film.parent / "mine.mp4")
    for arguments, reason in (
        (("nowhere", clip), "no such shot; it has opening, closing"),
        (("opening", clip, "--take", "2"), "it has 1 take, there is none"),
        (("opening", film.parent / "none.mp4"), "cannot read"),
        (("opening", film), "not a readable video"),
    ):
        answer = call("adopt", film, *arguments)
        assert (answer.status, reason in answer.err) == (2, True), answer.err


def test_a_clip_needs_no_prompt_and_its_file_must_be_there(call: InProcess, tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    path.write_text(WITH_CLIP)
    with pytest.raises(InvalidInput, match=r"film\.yaml:4: shot 'stock': clip: there is no file .*footage/sea\.mp4"):
        load_project(path)
    (tmp_path / "footage").mkdir()
    write_clip(tmp_path / "footage" / "sea.mp4")
    # From the file's folder, wherever the command is called.
    (shot,) = load_project(path).shots
    assert (shot.clip, shot.prompt) == (str(tmp_path / "footage" / "sea.mp4"), "")
    answer = call("plan", path)
    assert "clip" in answer.out
    assert "$0.00" in answer.out
    path.write_text(WITH_CLIP.replace("clip", "seed").replace("footage/sea.mp4", "1"))
    with pytest.raises(InvalidInput, match="prompt: this field is missing and required"):
        load_project(path)
