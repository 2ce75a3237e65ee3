"""Other people's text on its way out: to a terminal, a log, an artifact, a page, a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video._clean_text import clean_cell, clean_json, clean_text, enable_clean_logs
from prefect_video.cli.output import CleanConsole, escape, table

HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202egpj.exe\u2066 \x9b31m\r\nerror: all is paid\u2028\u200b\udc00 \U000e0041"
ACTIVE = {"Cc", "Cs", "Zl", "Zp"}
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_harmless(text: str, allowed: str = "") -> bool:
    return not any((unicodedata.category(sign) in ACTIVE or sign in BIDI) and sign not in allowed for sign in text)


@given(st.text(st.characters() | st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_no_text_commands_what_it_is_shown_by(text: str) -> None:
    assert is_harmless(clean_text(text))
    assert is_harmless(clean_text(text, lines=True), allowed="\t\n")
    assert clean_text(clean_text(text)) == clean_text(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_stays_the_same_document(text: str) -> None:
    shown = clean_json({"a": text})
    assert is_harmless(shown, allowed="\n")
    assert json.loads(shown) == {"a": text}


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Dämmerung über dem Meer, 夜明け, שלום, 👩‍👩‍👧, [red]it's $5[/]"
    assert clean_text(text) == text
    assert clean_text("two\n  lines\tof it") == "two lines of it"


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_never_a_formula(first: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([clean_cell(f"{first}cmd|'/c calc'!A1")])
    ((cell,),) = csv.reader(io.StringIO(out.getvalue()))
    assert cell[0] == "'"
    assert clean_cell("film-1") == "film-1"


def test_a_terminal_shows_hostile_text_and_does_not_obey_it() -> None:
    out = io.StringIO()
    console = CleanConsole(file=out, force_terminal=True, width=300, highlight=False)
    grid = table("shot")
    grid.add_row(escape(HOSTILE))
    console.print(grid)
    console.print(HOSTILE, markup=False)
    console.print(f"[bold]{escape(HOSTILE)}[/]")
    shown = out.getvalue()
    # The console's own styles are the only sequences.
    assert {part.split("m")[0] for part in shown.split("\x1b[")[1:]} <= {"0", "1", "2"}
    assert is_harmless(shown.replace("\x1b[", ""), allowed="\n")
    assert "owned" in shown


def test_a_log_has_one_line_for_each_record_whatever_handler_writes_it() -> None:
    factory, out = logging.getLogRecordFactory(), io.StringIO()
    handler, logger = logging.StreamHandler(out), logging.getLogger("prefect_video.test")
    logger.addHandler(handler)
    try:
        enable_clean_logs()
        enable_clean_logs()
        logger.error("generation %s ended after %d s", HOSTILE, 3)
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(factory)
    assert out.getvalue().count("\n") == 1
    assert is_harmless(out.getvalue(), allowed="\n")
    assert "ended after 3 s" in out.getvalue()
