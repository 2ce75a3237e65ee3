"""The text of project files: the fast parser reads what the other one reads, with the same lines and the same errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_video.errors import InvalidInput
from prefect_video.project_text import parse_text

FRAGMENTS = (
    "a: b\n", "shots:\n", " - id: x\n", "   prompt: 'it''s'\n", "   prompt: |\n     text\n     more\n", "  # c\n",
    "x # y\n", "- ", "\t", " ", "\n", "\r\n", "\x85", "\u2028", "&a ", "*a ", "!t ", "{a: 1}", "[1, 2]", "'", '"',
    '"q \\n x"\n', ": ", "é🎬", "%YAML 1.2\n", "---\n", "...\n", ">\n  f\n\n  g\n", "|+\n  k\n\n", "#", "@", "null\n",
    "\x00", "\x07", "\ufeff", "key: value # c\n", "b: |2\n    z\n", "16:9", "<<: ", "a:\n", '"\\x41"\n', "\U0010ffff",
    "\ud800", "010", "yes", "1e3",
)  # fmt: skip


def outcome_of(text: str) -> tuple[Any, ...]:
    try:
        return parse_text(text, Path("film.yaml"))
    except InvalidInput as error:
        return (str(error),)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join))
@example("a: 1\nb: ")
@example("- one\n- two\tthree\n")
@example("a: b\nc: &d e\n")
def test_the_fast_parser_and_the_other_one_agree(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", False)
        expected = outcome_of(text)
    assert outcome_of(text) == expected
