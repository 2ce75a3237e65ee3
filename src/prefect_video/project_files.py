"""Project files in YAML and JSON: reading them with messages that name file, line, shot and field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from prefect_video.errors import InvalidInput
from prefect_video.shots import LocatedError, Project

FieldPath = tuple[str | int, ...]

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


def describe_errors(
    error: ValidationError, data: Any, *, source: str = "", lines: Mapping[FieldPath, int] | None = None
) -> list[str]:
    """One line for each thing that is wrong in the data of a project or a shot."""
    return list(dict.fromkeys(_describe(one, data, source, lines or {}) for one in error.errors()))


def _describe(one: Any, data: Any, source: str, lines: Mapping[FieldPath, int]) -> str:
    location: FieldPath = tuple(one["loc"])
    cause = one.get("ctx", {}).get("error")
    if isinstance(cause, LocatedError):
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


def _line(source: str, location: FieldPath, lines: Mapping[FieldPath, int]) -> str:
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
            return f"at most {limits['max_length']:,} jobs; it has {limits['actual_length'] or 'more'}"
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


FILE_LIMIT_BYTES: Final = 16 * 2**20

_Path = tuple[str | int, ...]


class InvalidProject(InvalidInput):
    """The file is read and what it asks for cannot be meant.

    Attributes:
        project: The name that it gives, where it gives one.
    """

    def __init__(self, message: str, project: str | None = None) -> None:
        super().__init__(message)
        self.project = project


def load_project(path: Path | str) -> Project:
    """Reads and checks a project file; `.json` is read as JSON, everything else as YAML 1.2.

    Raises:
        InvalidInput: One line for each thing that is wrong, as `file:line: shot 'id': field: what`.
    """
    path = Path(path)
    text = _read(path)
    try:
        data, lines = _parse(text, path)
        return _project(data, lines, path)
    except RecursionError as error:
        raise InvalidInput(f"{path}: its brackets are nested too deeply; is it a project file?") from error


def _project(data: Any, lines: dict[_Path, int], path: Path) -> Project:
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: a project file holds a mapping with `project` and `shots`, not {_kind(data)}")
    try:
        return Project.model_validate(data)
    except ValidationError as error:
        name = data.get("project")
        raise InvalidProject(
            "\n".join(describe_errors(error, data, source=str(path), lines=lines)),
            name if isinstance(name, str) else None,
        ) from error


def project_schema() -> dict[str, Any]:
    """The JSON Schema of project files, for editors."""
    schema = Project.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "prefect-video project",
    }


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InvalidInput(f"{path}: the file is over {FILE_LIMIT_BYTES // 2**20} MB; is it a project file?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: the file is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read the file: {error.strerror or error}") from error


def _parse(text: str, path: Path) -> tuple[Any, dict[_Path, int]]:
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines = _lines(node, path) if node is not None else {}
    except yaml.YAMLError as error:
        if path.suffix.lower() != ".json":
            raise InvalidInput(_yaml_trouble(error, path)) from error
        lines = {}  # JSON may hold what YAML does not allow, such as tabs; json below has the last word
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text), lines
        except ValueError as error:
            raise InvalidInput(f"{path}: not valid JSON: {error}") from error
    try:
        return yaml.load(text, Loader=_Loader), lines
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(_yaml_trouble(error, path)) from error


def _yaml_trouble(error: Exception, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{path}:{mark.line + 1}: not valid YAML: {problem}" if mark else f"{path}: not valid YAML: {problem}"


def _lines(node: yaml.Node, path: Path) -> dict[_Path, int]:
    lines: dict[_Path, int] = {}
    _note_lines(node, (), lines, path)
    return lines


def _note_lines(node: yaml.Node, at: _Path, lines: dict[_Path, int], path: Path) -> None:
    if at in lines or len(at) > 8:
        return
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidInput(
                    f"{path}:{key.start_mark.line + 1}: the name of a field is one word, without brackets"
                )
            if key.value in seen:
                raise InvalidInput(f"{path}:{key.start_mark.line + 1}: {key.value!r} is given twice")
            seen.add(key.value)
            _note_lines(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*at, index), lines, path)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 1.1 would read an unquoted `16:9` as the number 969, and `no` as false."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  the base class declares it as an instance's

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not taken (use `defaults:`)", event.start_mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
