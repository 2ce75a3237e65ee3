"""Text in the letters that the emulator's font has: accents fall away, other scripts and signs go by their names."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final

from PIL import ImageFont

_INVISIBLE: Final = frozenset({"Mn", "Me", "Cf"})
"""Accents that stand alone, joiners and selectors."""


def spelled(text: str) -> str:
    """The text as it can be drawn: `Köln — ø ж ♥` as `Koln - o zhe [black heart suit]`."""
    return "".join(map(_spelled, unicodedata.normalize("NFC", text)))


@cache
def _spelled(char: str) -> str:
    if char.isspace() or _is_drawn(char):
        return char
    for form in (char, char.casefold()):
        plain = "".join(one for one in unicodedata.normalize("NFKD", form) if not unicodedata.combining(one))
        if plain and all(map(_is_drawn, plain)):
            return plain
    category, name = unicodedata.category(char), unicodedata.name(char, "")
    if category in _INVISIBLE:
        return ""
    if category == "Pd":
        return "-"
    _, is_letter, sound = name.partition(" LETTER ")
    if is_letter:
        sound = sound.partition(" WITH ")[0]
        return sound.capitalize() if category == "Lu" else sound.lower()
    return f"[{name.lower()}]" if name and "IDEOGRAPH" not in name else f"[U+{ord(char):04X}]"


@cache
def _is_drawn(char: str) -> bool:
    return _mask(char) != _mask("\N{REPLACEMENT CHARACTER}")


def _mask(char: str) -> bytes:
    return bytes(ImageFont.load_default(size=20).getmask(char))
