"""Projects from tables of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prefect_video.errors import InvalidInput
from prefect_video.rows import project_from_rows

TEMPLATE: Mapping[str, Any] = {
    "project": "ads",
    "variables": {"style": "35 mm"},
    "defaults": {"duration": 4},
    "shot": {"id": "ad-{sku}", "prompt": "{style}, a {animal}, {mood}"},
}


def write(folder: Path, text: str, name: str = "shots.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_of_a_spreadsheet(tmp_path: Path) -> None:
    """With a byte order mark, semicolons, numbers as floats, empty cells, an empty line and a line break in a cell."""
    rows = write(
        tmp_path,
        '\ufeffsku;animal;mood;duration;seeds\r\n7;cat;"wild;\r\nfree";8.0;1;\r\n'.replace("8.0;1;", '8.0;"1; 2"')
        + "\r\n008;{dog};calm;;\r\n",
    )
    project = project_from_rows(rows, TEMPLATE)
    first, second = project.shots
    assert (first.id, first.prompt, first.duration, first.takes) == ("ad-7", "35 mm, a cat, wild;\r\nfree", 8, 2)
    assert (second.id, second.prompt, second.duration, second.seeds) == ("ad-008", "35 mm, a {dog}, calm", 4, ())
    assert second.metadata == {"sku": "008", "animal": "{dog}", "mood": "calm"}


def test_cells_of_lists_booleans_and_json(tmp_path: Path) -> None:
    text = """id,prompt,depends_on,audio,options,first_frame
a,x,,TRUE,"{""cfg"": 0.5}",1
b,y,a; c,false,,
c,z,,,,
"""
    a, b, c = project_from_rows(write(tmp_path, text)).shots
    assert (a.audio, a.options, a.first_frame, a.depends_on) == (True, {"cfg": 0.5}, str(tmp_path / "1"), ())
    assert (b.audio, b.depends_on, c.audio) == (False, ("a", "c"), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,prompt\na,a cat\na,a dog\n", r"shots\.csv:3: shot 'a': this id is used twice"),
        ("id,prompt\na,a cat, on a roof\n", r"shots\.csv:2: the row has 3 cells and the header 2"),
        ('id,prompt\na,"x\ny"\nb,#REF!\n', r"shots\.csv:4: prompt: '#REF!' is a spreadsheet's error"),
        ("id,prompt\na,=A1&B2\n", r"shots\.csv:2: prompt: '=A1&B2' is a spreadsheet's error or formula"),
        ("id,prompt,duration\na,x,8.5\n", r"shots\.csv:2: shot 'a': duration: a whole number, not 8\.5"),
        ("id,prompt,seed\na,x,1.2E+15\n", r"shots\.csv:2: shot 'a': seed: a whole number"),
        ("prompt\nx\n", r"shots\.csv:2: the row has no `id`"),
        ("id,id\nx,y\n", r"shots\.csv:1: there are two columns 'id'"),
        ("id,prompt\na,\n", r"shots\.csv:2: shot 'a': prompt: this field is missing"),
        ("id,prompt\n", "there are no rows"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        project_from_rows(write(tmp_path, text))


def test_mistakes_in_the_template_are_named_there(tmp_path: Path) -> None:
    template = write(tmp_path, "project: ads\nbudget_usd: much\nshot:\n  prompt: A {colour} cat\n", "t.yaml")
    with pytest.raises(InvalidInput, match=r"t\.yaml:4: shot 'a': prompt: \{colour\} is not a variable; there are: id"):
        project_from_rows(write(tmp_path, "id\na\n"), template)
    with pytest.raises(InvalidInput, match=r"t\.yaml:2: budget_usd: a number, not 'much'"):
        project_from_rows(write(tmp_path, "id,colour\na,red\n"), template)


def test_jsonl_and_data_frames_keep_their_types(tmp_path: Path) -> None:
    lines = (
        '{"id": "a", "prompt": "x", "duration": 8.0, "price": 1.5}\n\n{"id": 7, "prompt": "{y}", "references": []}\n'
    )
    first, second = project_from_rows(write(tmp_path, lines, "more.jsonl")).shots
    assert (first.duration, first.metadata) == (8, {"price": "1.5"})
    assert (second.id, second.prompt) == ("7", "{y}")
    with pytest.raises(InvalidInput, match=r"bad\.jsonl:2: a row is an object"):
        project_from_rows(write(tmp_path, '{"id": "a"}\n[1]\n', "bad.jsonl"))
    frame = [{"id": "a", "prompt": "x", "duration": math.nan}, {"id": "b", "prompt": "y", "duration": 6.0}]
    assert [shot.duration for shot in project_from_rows(frame, {"project": "film"}).shots] == [10, 6]


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "shots.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(InvalidInput, match=r"pip install 'prefect-video\[parquet\]'"):
            project_from_rows(path)
        return
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"], "prompt": ["x"], "duration": [8.0]}), path)
    assert project_from_rows(path).shots[0].duration == 8
