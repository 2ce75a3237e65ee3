"""Messages about the fields of a project or a shot: file, line, shot, field, and what is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from prefect_video.projects import LocatedError
from prefect_video.templates import FieldPath, Place

_EXPECTED: Final = {
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
"""Expected value by pydantic's type of the error."""


def describe_errors(
    error: ValidationError, data: Any, *, source: str = "", lines: Mapping[FieldPath, Place] | None = None
) -> list[str]:
    """Describe each error in the data of a project or a shot on one line.

    Args:
        error: The errors that pydantic found.
        data: The data, for the names of shots.
        source: Name of the file, to start each line with.
        lines: Line in the file of each field.
    """
    return list(dict.fromkeys(_describe(detail, data, source, lines or {}) for detail in error.errors()))


def _describe(detail: Any, data: Any, source: str, lines: Mapping[FieldPath, Place]) -> str:
    location: FieldPath = tuple(detail["loc"])
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, LocatedError):
        # Its message names shot and field.
        return ": ".join(filter(None, (format_line(source, cause.at, lines), str(cause))))
    parts = [format_line(source, location, lines)]
    field = location
    if len(location) >= 2 and location[0] == "shots" and isinstance(location[1], int):
        parts.append(_shot_label(data, location[1]))
        field = location[2:]
    if field:
        parts.append(".".join(str(name) for name in field))
    parts.append(_explain(detail))
    return ": ".join(part for part in parts if part)


def format_line(source: str, location: FieldPath, lines: Mapping[FieldPath, Place]) -> str:
    """Return `file:line` of a field, or of the nearest one around it whose line is known."""
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    if isinstance(line, str):
        return line
    return f"{source}:{line}" if source and line else source


def _explain(detail: Any) -> str:
    """Return what is wrong with a value and what is expected instead."""
    given, limits = detail.get("input"), detail.get("ctx", {})
    match detail["type"]:
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
            return f"at least {limits['ge']}, not {shorten_value(given)}"
        case "less_than_equal":
            return f"at most {limits['le']}, not {shorten_value(given)}"
        case "literal_error":
            return f"one of {limits['expected']}, not {shorten_value(given)}"
        case "string_pattern_mismatch" if detail["loc"][-1] == "size":
            return f"width, `x` and height in pixels, such as 1280x720, not {shorten_value(given)}"
        case "string_pattern_mismatch" if detail["loc"][-1] == "aspect_ratio":
            return f"width and height, such as 16:9 or 21:9, or `adaptive`, not {shorten_value(given)}"
        case "string_pattern_mismatch":
            return f"{shorten_value(given)} is not a name: use letters, digits, `_`, `-` and single dots"
        case "value_error":
            return str(detail["msg"]).removeprefix("Value error, ")
    if expected := _EXPECTED.get(detail["type"]):
        return f"{expected}, not {shorten_value(given)}"
    return str(detail["msg"])


def shorten_value(value: Any) -> str:
    """Return a value as a message shows it: a container by its kind, a long text by its beginning."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _shot_label(data: Any, index: int) -> str:
    shots = data.get("shots") if isinstance(data, dict) else None
    shot = shots[index] if isinstance(shots, list) and index < len(shots) else None
    name = shot.get("id") if isinstance(shot, dict) else None
    return f"shot {shorten_value(name)}" if name is not None else f"shot number {index + 1}"
