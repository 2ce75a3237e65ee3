"""What is wrong with the data of a project, in plain words: one line for each, with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from prefect_video.shots import MisplacedError

Path = tuple[str | int, ...]

_KINDS: Final = {
    "string_type": "text in quotes",
    "string_unicode": "text without broken characters",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "finite_number": "a number that is finite",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of fields to values",
    "model_attributes_type": "a mapping of fields to values",
}
"""What was expected, by pydantic's type of the error."""


def describe(
    error: ValidationError, data: Any, *, source: str = "", lines: Mapping[Path, int] | None = None
) -> list[str]:
    """One line for each thing that is wrong in the data of a project or a shot."""
    return list(dict.fromkeys(_describe(one, data, source, lines or {}) for one in error.errors()))


def _describe(one: Any, data: Any, source: str, lines: Mapping[Path, int]) -> str:
    location: Path = tuple(one["loc"])
    cause = one.get("ctx", {}).get("error")
    if isinstance(cause, MisplacedError):
        # Its message names shot and field.
        return ": ".join(filter(None, (_line(source, cause.at, lines), str(cause))))
    where = [_line(source, location, lines)]
    field = location
    if len(location) >= 2 and location[0] == "shots" and isinstance(location[1], int):
        where.append(_shot_name(data, location[1]))
        field = location[2:]
    if field:
        where.append(".".join(str(part) for part in field))
    where.append(_what(one))
    return ": ".join(part for part in where if part)


def _line(source: str, location: Path, lines: Mapping[Path, int]) -> str:
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    return f"{source}:{line}" if source and line else source


def _what(one: Any) -> str:
    given, limits = one.get("input"), one.get("ctx", {})
    match one["type"]:
        case "missing":
            return "this field is missing and required"
        case "extra_forbidden":
            return "there is no such field; see `prefect-video schema`"
        case "string_too_short":
            return "this text is empty"
        case "string_too_long":
            return f"at most {limits['max_length']:,} characters; it has {len(given):,}"
        case "too_long":
            return f"at most {limits['max_length']:,} entries; it has {limits['actual_length'] or 'more'}"
        case "greater_than_equal":
            return f"at least {limits['ge']}, not {_short(given)}"
        case "less_than_equal":
            return f"at most {limits['le']}, not {_short(given)}"
        case "literal_error":
            return f"one of {limits['expected']}, not {_short(given)}"
        case "string_pattern_mismatch":
            return f"{_short(given)} is not a name: use letters, digits, `_`, `-` and single dots"
        case "value_error":
            return str(one["msg"]).removeprefix("Value error, ")
    if expected := _KINDS.get(one["type"]):
        return f"{expected}, not {_short(given)}"
    return str(one["msg"])


def _short(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _shot_name(data: Any, index: int) -> str:
    shots = data.get("shots") if isinstance(data, dict) else None
    shot = shots[index] if isinstance(shots, list) and index < len(shots) else None
    name = shot.get("id") if isinstance(shot, dict) else None
    return f"shot {_short(name)}" if name is not None else f"shot number {index + 1}"
