"""Whether what a provider tells of a generation may be what was asked for, where no key of ours tells for certain.

Servers respell what they were sent: another language writes 7.0 as 7, words come back trimmed or shortened. An answer
that differs proves little, so what is told in the same words is never taken for somebody else's (see `Provider.find`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def is_same_text(told: str | None, asked: str) -> bool:
    """Whether words are those that were asked for, but for the space around them."""
    return told is not None and told.strip() == asked.strip()


def may_tell_of(asked: str, told: str | None) -> bool:
    """Whether a server's words may be those of a prompt: it may say nothing, or shorten them."""
    if told is None or is_same_text(told, asked):
        return True
    shortened = re.sub(r"(\.\.\.|…)$", "", told)
    return shortened != told and asked.startswith(shortened)


def is_same_value(told: Any, asked: Any) -> bool:
    """Whether two values of a field are the same; numbers count as numbers, also where they are told as text."""
    if isinstance(told, bool) or isinstance(asked, bool):
        return told is asked
    number = _number(asked)
    if number is not None:
        return _number(told) == number
    return isinstance(told, str) and isinstance(asked, str) and is_same_text(told, asked)


def holds_all(told: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether all fields that were asked for are told, each with its value."""
    return all(name in told and is_same_value(told[name], value) for name, value in asked.items())


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
