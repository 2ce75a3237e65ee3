"""Comparison of a request with a server's echo of it: prompts and parameters, respelled, cut or complete."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from enum import IntEnum
from typing import Any, Final

KEY_FIELD: Final = "idempotency_key"
"""Field of a generation's metadata with the key that it was submitted with."""
_MIN_RESPELLED_LENGTH: Final = 4
"""Length below which another letter makes another word."""
_ELLIPSIS: Final = re.compile(r"(\.\.\.|…)\s*$")
_WORDS: Final = re.compile(r"[^\W_]+")
_UNSPACED: Final = 0x2E80
"""Code point from which scripts are written without spaces: each sign counts as a word."""
_RESPELLED_RATIO: Final = 0.8
"""Similarity from which one word counts as a spelling of another."""


class Match(IntEnum):
    """Result of comparing a generation with a request; the lowest of several results counts."""

    DIFFERENT = 0
    POSSIBLE = 1
    SAME = 2


def match_prompt(requested: str, echoed: str | None) -> Match:
    """Compare a prompt with a server's echo of it.

    Servers collapse white space, normalise Unicode, change case, cut text short and add words around and inside it:
    such an echo is a possible match. An echo that differs only in white space, Unicode form and case is the same
    prompt; one in which words are replaced is a different one.
    """
    if echoed is None or not echoed.strip():
        return Match.POSSIBLE
    if normalise_text(requested) == normalise_text(echoed):
        return Match.SAME
    requested_words, echoed_words = split_words(requested), split_words(_ELLIPSIS.sub("", echoed))
    # No words to compare, or a translation into another script, prove nothing.
    if not requested_words or not echoed_words or _is_latin(requested_words) != _is_latin(echoed_words):
        return Match.POSSIBLE
    return Match.POSSIBLE if _is_respelling(requested_words, echoed_words) else Match.DIFFERENT


def match_values(requested: Mapping[str, Any], echoed: Mapping[str, Any], *, required: bool = False) -> Match:
    """Compare requested parameters with those that are echoed.

    Args:
        requested: Parameters that were sent.
        echoed: Parameters that the server reports.
        required: Whether a parameter that is not echoed counts as different.

    Returns:
        `SAME`, or `POSSIBLE` where a parameter differs, as servers change those that they do not support.
    """
    is_same = all(
        is_same_value(echoed[name], value) if name in echoed else not required for name, value in requested.items()
    )
    return Match.SAME if is_same else Match.POSSIBLE


def is_same_value(echoed: Any, requested: Any) -> bool:
    """Return whether two values of a field are the same; numbers count as numbers, also where they come as text."""
    if isinstance(echoed, bool) or isinstance(requested, bool) or requested is None:
        return echoed is requested
    if isinstance(requested, Mapping):
        return (
            isinstance(echoed, Mapping)
            and echoed.keys() == requested.keys()
            and all(is_same_value(echoed[name], value) for name, value in requested.items())
        )
    if isinstance(requested, list | tuple):
        return (
            isinstance(echoed, list | tuple)
            and len(echoed) == len(requested)
            and all(map(is_same_value, echoed, requested))
        )
    number = _to_number(requested)
    if number is not None:
        return _to_number(echoed) == number
    return (
        isinstance(echoed, str) and isinstance(requested, str) and normalise_text(echoed) == normalise_text(requested)
    )


def normalise_text(text: str) -> str:
    """Return a text free of what servers change without changing its meaning: Unicode form, case, white space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(sign for sign in plain if unicodedata.category(sign) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).split())


def split_words(text: str) -> list[str]:
    """Return the words of a text without case, accents, punctuation and space."""
    decomposed = unicodedata.normalize("NFKD", normalise_text(text))
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    return [part for token in _WORDS.findall(plain) for part in _split_unspaced(token)]


def _split_unspaced(token: str) -> Iterable[str]:
    return token if any(ord(sign) >= _UNSPACED for sign in token) else (token,)


def _is_latin(words: list[str]) -> bool:
    return any(token.isascii() for token in words)


def _is_respelling(requested: list[str], echoed: list[str]) -> bool:
    """Return whether echoed words may be the requested ones with some added, some left out and an end cut off.

    Words that are replaced make another prompt.
    """
    if _is_within(requested, echoed) or (_is_within(echoed[:-1], requested) and _may_be_cut(echoed[-1], requested)):
        return True
    # Words were added before the prompt, and then its end was cut off.
    last = echoed[-1]
    ends = [index for index, token in enumerate(requested) if token.startswith(last) or _is_same_word(token, last)]
    if any(_is_within(requested[:index], echoed[:-1]) for index in ends):
        return True
    # The beginning was cut off, and words were added behind.
    starts = [index for index, token in enumerate(requested[:-1]) if _is_same_word(token, echoed[0])]
    return any(_is_within(requested[index:], echoed) for index in starts)


def _is_within(part: list[str], words: list[str]) -> bool:
    """Return whether all words of a part are among the words, in the same order."""
    # One iterator for all: each search goes on behind the last hit.
    rest = iter(words)
    return all(any(_is_same_word(token, other) for other in rest) for token in part)


def _may_be_cut(token: str, words: list[str]) -> bool:
    return any(other.startswith(token) or _is_same_word(token, other) for other in words)


def _is_same_word(token: str, other: str) -> bool:
    if token == other:
        return True
    if min(len(token), len(other)) < _MIN_RESPELLED_LENGTH or abs(len(token) - len(other)) > 1:
        return False
    return SequenceMatcher(None, token, other, autojunk=False).ratio() >= _RESPELLED_RATIO


def _to_number(value: Any) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
