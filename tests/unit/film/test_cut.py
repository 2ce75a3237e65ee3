"""`cut:` in project files: what it may say, and that everything wrong in it is named with its line before a run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prefect_video.errors import InvalidInput
from prefect_video.film import Cut, estimate_seconds
from prefect_video.film.captions import read_captions
from prefect_video.project_files import load_project, project_schema
from prefect_video.projects import Project
from tests.support.films import write_clip

SHOTS = """\
project: film
shots:
  - {id: one, prompt: dawn, duration: 4}
  - {id: two, prompt: dusk, duration: 4, takes: 2}
cut:
"""


def load(folder: Path, *lines: str) -> Cut:
    path = folder / "film.yaml"
    path.write_text(SHOTS + "".join(f"  {line}\n" for line in lines), encoding="utf-8")
    cut = load_project(path).cut
    assert cut is not None
    return cut


def test_single_values_stand_for_whole_records(tmp_path: Path) -> None:
    write_clip(tmp_path / "music.mp4", "#000000", hz=220, seconds=0.5, size=(64, 64))
    (tmp_path / "captions.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nHello\n")
    short = load(
        tmp_path,
        "order: [one, two, one]",
        "transition: crossfade",
        "title_card: Morning",
        "music: music.mp4",
        "captions: captions.srt",
        "loudness: -16",
        'format: "9:16"',
        "encoder: libsvtav1",
    )
    whole = load(
        tmp_path,
        "order: [{shot: one}, {shot: two, trim: {start: 0}}, {shot: one}]",
        "transition: {type: crossfade}",
        "title_card: {text: Morning}",
        "music: {file: music.mp4}",
        "captions: {file: captions.srt, mode: burned}",
        "loudness: {target_lufs: -16}",
        'format: {aspect_ratio: "9:16"}',
        "encoder: {codec: libsvtav1}",
    )
    assert short == whole
    # Paths are beside the project file, wherever the run is started.
    assert short.music is not None
    assert short.music.file == str(tmp_path / "music.mp4")
    assert Cut.model_validate_json(short.model_dump_json()) == short
    assert estimate_seconds(short, {"one": 4, "two": 4}) == pytest.approx(3 + 4 + 4 + 4 - 3 * 0.5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["music:", "  file: absent.mp3"], ":7: cut: {folder}/absent.mp3: there is no such file"),
        (["music: list.m3u8"], ":6: cut: {folder}/list.m3u8: cannot be read as sound"),
        (["music: film.yaml"], ":6: cut: {folder}/film.yaml: cannot be read as sound"),
        (["captions:", "  file: absent.srt"], ":7: cut: {folder}/absent.srt: cannot read the file: No such file"),
        (["captions: bad.srt"], ":6: cut: {folder}/bad.srt:2: '00:00:03 --> 00:00:04' is no pair of times"),
        (["captions:", "  - {start: 2, end: 1, text: x}"], "the caption ends at 1 s and begins at 2 s"),
        (["captions:", "  cues: [{start: 60, end: 61, text: x}]"], ":7: cut: caption 1 begins at 60 s, and the film"),
        (["order:", "  - one", "  - three"], ":8: cut: 'three' is not a shot of this project"),
        (["order:", "  - {shot: two, take: 3}"], ":7: cut: there is no take 3 of shot 'two': its `takes` is 2"),
        (["order:", "  - {shot: one, trim: {end: 9}}"], ":7: cut: shot 'one' lasts 4 s and is to be cut at 9 s"),
        (["order:", "  - {shot: one, trim: {start: 3, end: 2}}"], "ends at 2 s and begins at 3 s: it has no length"),
        (
            ["order: [one, two, one]", "transition: {type: crossfade, seconds: 2.5}"],
            ":6: cut: clip 'two' lasts 4 s, and the crossfades at its ends take 5 s",
        ),
        (["transition: {type: cut, seconds: 1}"], ":6: cut.transition: a cut takes no seconds"),
        (["title_card: 日本"], ":6: cut: the font SourceSansPro-Regular.ttf has no 日 本: name one that has"),
        (["font: film.yaml", "title_card: x"], ":6: cut: {folder}/film.yaml: cannot be read as a font"),
        (["encoder: libx265"], ":6: cut.encoder.codec: one of"),
        (["encoder: {codec: libx264, preset: '8'}"], ":6: cut.encoder: preset: libx264 has ultrafast, superfast"),
        (["encoder: {codec: libx264, crf: 60}"], ":6: cut.encoder: crf: at most 51 with libx264, not 60"),
        (["format: {resolution: 9999p}"], ":6: cut.format: resolution: at most 4320p, not 9999p"),
        (["format: wide"], ":6: cut.format.aspect_ratio: "),
        (["captions: {file: x.srt, mode: soft}", "encoder: libvpx-vp9"], "a text track needs an MP4"),
        (["fade: 1"], ":6: cut.fade: there is no such field"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "bad.srt").write_text("1\n00:00:03 --> 00:00:04\nHello\n")
    # A list of addresses: no file that a cut names may send a request.
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, *lines)
    assert message.format(folder=tmp_path) in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/film.yaml:")


def test_captions_of_both_kinds_are_read(tmp_path: Path) -> None:
    srt, vtt = tmp_path / "a.srt", tmp_path / "a.vtt"
    srt.write_text(
        "\ufeff1\n00:00:01,000 --> 00:00:02,500\n<i>One</i> &amp; two\nthree\n\n2\n00:01:00,000 --> 00:01:01,000\nfour\n",
        encoding="utf-8",
    )
    vtt.write_text(
        "WEBVTT\n\nNOTE not shown\n\nintro\n00:01.000 --> 00:02.500 align:start\n<v Ann>One &amp; two\nthree\n\n"
        "01:00.000 --> 01:01.000\nfour\n"
    )
    expected = [(1.0, 2.5, "One & two\nthree"), (60.0, 61.0, "four")]
    for path in (srt, vtt):
        assert [(cue.start, cue.end, cue.text) for cue in read_captions(path)] == expected
    (tmp_path / "latin.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,500\nGrüße\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_captions(tmp_path / "latin.srt")


def test_the_page_shows_projects_that_are_valid() -> None:
    text = (Path(__file__).parents[3] / "docs" / "film.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert Project.model_validate(yaml.safe_load(shown)).cut is not None
    for field in Cut.model_fields:
        assert f"`{field}`" in text, field


def test_projects_load_without_pyav_and_editors_know_the_short_forms() -> None:
    code = "import sys, prefect_video.project_files; print({'av', 'PIL', 'prefect'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
    import jsonschema

    validator = jsonschema.Draft202012Validator(project_schema())
    data = {"project": "film", "shots": [{"id": "one", "prompt": "dawn"}]}
    short = {"order": ["one"], "transition": "cut", "captions": "a.srt", "music": "a.mp3", "loudness": -16}
    assert not list(validator.iter_errors({**data, "cut": short}))
    assert list(validator.iter_errors({**data, "cut": {"transition": "wipe"}}))
