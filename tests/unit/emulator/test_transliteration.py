"""Transliteration of prompts into the characters of the font."""

from __future__ import annotations

import pytest

from prefect_video.emulator.rendering.text import transliterate


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Dawn, 5 o'clock “now”…", "Dawn, 5 o'clock “now”…"),
        ("Zürich naïve Ÿ", "Zurich naive Y"),
        ("u\N{COMBINING DIAERESIS}ber", "uber"),
        ("Straße, smørrebrød, Æther", "Strasse, smorrebrod, AEther"),
        ("one — two", "one -- two"),
        ("дом", "dom"),
        ("a ♥\N{VARIATION SELECTOR-16} b", "a [black heart suit] b"),
        ("日本", "Ri Ben "),
        ("🎬", "[clapper board]"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_what_the_font_lacks_is_transliterated(text: str, drawn: str) -> None:
    assert transliterate(text) == drawn
