"""Prompts in the letters that the font has."""

from __future__ import annotations

import pytest

from prefect_video.emulator.spelling import spelled


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Dawn, 5 o'clock “now”…", "Dawn, 5 o'clock “now”…"),
        ("Zürich naïve Ÿ", "Zurich naive Y"),
        ("u\N{COMBINING DIAERESIS}ber", "uber"),
        ("Straße, smørrebrød, Æther", "Strasse, smorrebrod, Aether"),
        ("one — two", "one - two"),
        ("дом", "deoem"),
        ("a ♥\N{VARIATION SELECTOR-16} b", "a [black heart suit] b"),
        ("日", "[U+65E5]"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_what_the_font_lacks_is_spelled(text: str, drawn: str) -> None:
    assert spelled(text) == drawn
