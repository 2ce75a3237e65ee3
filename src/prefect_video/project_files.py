"""Project files in YAML and JSON, read with messages that name file, line, shot and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from prefect_video.errors import InvalidInput
from prefect_video.film import Cut
from prefect_video.projects import LocatedError, Project
from prefect_video.shots import is_web_address
from prefect_video.templates import VALUE_FIELDS, FieldPath, Place, Scalar, as_text, expand_template

FILE_LIMIT_BYTES: Final = 16 * 2**20

_MAX_DEPTH: Final = 32
"""Depth to which line numbers are recorded; only the options of a shot may be deeper."""

_TEXT_FIELDS: Final = frozenset({"prompt", "negative_prompt", "prompt_prefix", "prompt_suffix"})
"""Fields whose every word is part of what is paid for."""
_VARIABLE_FIELDS: Final = frozenset({"variables", "matrix"})
"""Fields whose values are put into such texts: by name, or lists by name."""
_PAID_FIELDS: Final = _VARIABLE_FIELDS | {"options"}
"""Fields below which every text is part of what is paid for."""
_BREAK: Final = r"(?:\r\n|[\r\n\x85\u2028\u2029])"
"""What ends a line for YAML."""
_WORDS: Final = r"(?P<comment>#[^\r\n\x85\u2028\u2029]*)"
_COMMENT: Final = re.compile(rf"[ \t]+{_WORDS}")
_COMMENT_BELOW: Final = re.compile(rf"[ \t]*(?:{_BREAK}[ \t]*)*{_BREAK}(?P<indent> +){_WORDS}")
_COMMENT_BELOW_BLOCK: Final = re.compile(rf"(?P<indent> *){_WORDS}")
"""A comment in the line after a block (`|`, `>`), at whose beginning the block ends."""

_AS_WRITTEN: Final[Mapping[str, Callable[[str], Scalar]]] = {
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
}
"""Reads the plain scalars that are no texts, by tag."""

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
        return ": ".join(filter(None, (_format_line(source, cause.at, lines), str(cause))))
    parts = [_format_line(source, location, lines)]
    field = location
    if len(location) >= 2 and location[0] == "shots" and isinstance(location[1], int):
        parts.append(_shot_label(data, location[1]))
        field = location[2:]
    if field:
        parts.append(".".join(str(name) for name in field))
    parts.append(_explain(detail))
    return ": ".join(part for part in parts if part)


def _format_line(source: str, location: FieldPath, lines: Mapping[FieldPath, Place]) -> str:
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
            return f"at least {limits['ge']}, not {_shorten(given)}"
        case "less_than_equal":
            return f"at most {limits['le']}, not {_shorten(given)}"
        case "literal_error":
            return f"one of {limits['expected']}, not {_shorten(given)}"
        case "string_pattern_mismatch" if detail["loc"][-1] == "size":
            return f"width, `x` and height in pixels, such as 1280x720, not {_shorten(given)}"
        case "string_pattern_mismatch" if detail["loc"][-1] == "aspect_ratio":
            return f"width and height, such as 16:9 or 21:9, or `adaptive`, not {_shorten(given)}"
        case "string_pattern_mismatch":
            return f"{_shorten(given)} is not a name: use letters, digits, `_`, `-` and single dots"
        case "value_error":
            return str(detail["msg"]).removeprefix("Value error, ")
    if expected := _EXPECTED.get(detail["type"]):
        return f"{expected}, not {_shorten(given)}"
    return str(detail["msg"])


def _shorten(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _shot_label(data: Any, index: int) -> str:
    shots = data.get("shots") if isinstance(data, dict) else None
    shot = shots[index] if isinstance(shots, list) and index < len(shots) else None
    name = shot.get("id") if isinstance(shot, dict) else None
    return f"shot {_shorten(name)}" if name is not None else f"shot number {index + 1}"


class InvalidProject(InvalidInput):
    """A readable file whose project is invalid. Correct the lines that the message lists; nothing was spent.

    Attributes:
        project: Name of the project, where the file has one.
    """

    def __init__(self, message: str, project: str | None = None) -> None:
        super().__init__(message)
        self.project = project


def load_project(path: Path | str) -> Project:
    """Read and validate a project file; `.json` is read as JSON, any other as YAML 1.2.

    Raises:
        InvalidInput: The file is invalid; one line for each error, as `file:line: shot 'id': field: reason`.
    """
    path = Path(path)
    text = _read(path)
    try:
        data, lines = _parse(text, path)
        return build_project(data, lines, str(path))
    except RecursionError as error:
        raise InvalidInput(f"{path}: its brackets are nested too deeply; is it a project file?") from error


def read_template(path: Path | str) -> tuple[dict[str, Any], dict[FieldPath, int]]:
    """Read the data of a project file without its shots, and the line of each field.

    Raises:
        InvalidInput: The file cannot be read, or holds no mapping.
    """
    path = Path(path)
    data, lines = _parse(_read(path), path)
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: a template holds a mapping with `project` and `shot`, not {_kind(data)}")
    return data, lines


def build_project(
    data: Any,
    lines: Mapping[FieldPath, Place],
    source: str,
    rows: Sequence[Mapping[str, Scalar]] | None = None,
) -> Project:
    """Expand the templates in the data of a project, and validate it.

    Args:
        data: The data, as a file has it.
        lines: Line in the file of each field.
        source: Name of the file, to start each line of an error with.
        rows: For each shot its own variables, where the shots are made from rows.

    Raises:
        InvalidProject: One line for each error, as `file:line: shot 'id': field: reason`.
    """
    if not isinstance(data, dict):
        raise InvalidInput(f"{source}: a project file holds a mapping with `project` and `shots`, not {_kind(data)}")
    named = data.get("project") if isinstance(data.get("project"), str) else None
    expansion = expand_template(data, rows)
    if expansion.problems:
        problems = [f"{_format_line(source, error.at, lines)}: {error}" for error in expansion.problems]
        raise InvalidProject("\n".join(dict.fromkeys(problems)), named)
    try:
        project = Project.model_validate(expansion.data)
    except ValidationError as error:
        moved = expansion.move_lines(lines)
        raise InvalidProject(
            "\n".join(describe_errors(error, expansion.data, source=source, lines=moved)), named
        ) from error
    moved, path = expansion.move_lines(lines), Path(source)
    project = _find_clips(_locate_images(project, path.absolute().parent), moved, path)
    return project if project.cut is None else _check_cut(project, project.cut, moved, path)


def _locate_images(project: Project, folder: Path) -> Project:
    """Return a project with the paths of its images made absolute, from the folder of its file; a run reads them."""

    def locate(image: str) -> str:
        return image if is_web_address(image) else str(folder / Path(image).expanduser())

    shots = []
    for shot in project.shots:
        located = {name: tuple(map(locate, images)) for name, images in shot.images.items()}
        frames = {name: images[0] for name, images in located.items() if name != "references"}
        changes = {**frames, "references": located.get("references", ())}
        shots.append(shot.model_copy(update=changes) if located else shot)
    return project.model_copy(update={"shots": tuple(shots)})


def _find_clips(project: Project, lines: Mapping[FieldPath, Place], path: Path) -> Project:
    """Return a project with the paths of its clips made absolute, from the folder of its file.

    Raises:
        InvalidProject: A file is missing; one line for each.
    """
    problems: list[str] = []
    shots = list(project.shots)
    for number, shot in enumerate(shots):
        if shot.clip is None or is_web_address(shot.clip):
            continue
        clip = path.absolute().parent / Path(shot.clip).expanduser()
        if not clip.is_file():
            place = _format_line(str(path), ("shots", number, "clip"), lines)
            problems.append(f"{place}: shot {shot.id!r}: clip: there is no file {clip}")
        shots[number] = shot.model_copy(update={"clip": str(clip)})
    if problems:
        raise InvalidProject("\n".join(problems), project.name)
    return project.model_copy(update={"shots": tuple(shots)})


def _check_cut(project: Project, cut: Cut, lines: Mapping[FieldPath, Place], path: Path) -> Project:
    """Return a project whose cut names its files by where they are beside the project file, and can be made.

    Raises:
        InvalidProject: A file is missing or unusable, a font lacks a character, or a codec is not there.
    """
    # Imported late: it loads PyAV, which most projects do not need.
    from prefect_video.film import find_unusable

    resolved = cut.resolve_paths(path.parent)
    problems = [
        f"{_format_line(str(path), ('cut', *problem.at), lines)}: cut: {problem.message}"
        for problem in find_unusable(resolved, project.requested_seconds)
    ]
    if problems:
        raise InvalidProject("\n".join(problems), project.name)
    return project.model_copy(update={"cut": resolved})


_PART: Final = {"type": "string", "description": "Joined to every prompt by a space; empty: none"}
_TEMPLATE_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "project": {
        "variables": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "description": "Values for `{name}` in the texts of shots and defaults; `{{` and `}}` are braces then",
        }
    },
    "defaults": {"prompt_prefix": _PART, "prompt_suffix": _PART},
    "shot": {
        "prompt_prefix": _PART,
        "prompt_suffix": _PART,
        "matrix": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
            "description": "One shot for each combination of these values, of variables or of fields",
        },
    },
}
"""Fields of a file that its expansion uses up, so that a `Project` has none of them."""
_TEMPLATE_RECORDS: Final = {"shot": "Shot", "defaults": "ShotDefaults"}


def project_schema() -> dict[str, Any]:
    """Return the JSON Schema of project files, for editors."""
    schema = Project.model_json_schema(by_alias=True)
    schema["properties"].update(_TEMPLATE_FIELDS["project"])
    for name in ("shot", "defaults"):
        schema["$defs"][_TEMPLATE_RECORDS[name]]["properties"].update(_TEMPLATE_FIELDS[name])
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


def _parse(text: str, path: Path) -> tuple[Any, dict[FieldPath, int]]:
    """Parse a file into its data and the line of each field."""
    return _parse_json(text, path) if path.suffix.lower() == ".json" else _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> tuple[Any, dict[FieldPath, int]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = _find_lines(node, path)
        _check_texts(node, text, path)
        # Last, as it puts merged mappings in their place.
        return loader.construct_document(node), lines
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(_describe_yaml_error(error, path)) from error


def _parse_json(text: str, path: Path) -> tuple[Any, dict[FieldPath, int]]:
    """Parse JSON, which is read as YAML for its lines only."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines = _find_lines(node, path) if node is not None else {}
    except yaml.YAMLError:
        lines = {}  # JSON allows characters that YAML does not, such as tabs; the parser below decides.
    try:
        return json.loads(text), lines
    except ValueError as error:
        raise InvalidInput(f"{path}: not valid JSON: {error}") from error


def _describe_yaml_error(error: Exception, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{path}:{mark.line + 1}: not valid YAML: {problem}" if mark else f"{path}: not valid YAML: {problem}"


def _find_lines(node: yaml.Node, path: Path) -> dict[FieldPath, int]:
    lines: dict[FieldPath, int] = {}
    _record_lines(node, (), lines, path)
    return lines


def _record_lines(node: yaml.Node, at: FieldPath, lines: dict[FieldPath, int], path: Path) -> None:
    """Record the line of a node and of all below it.

    Raises:
        InvalidInput: A name is given twice, which YAML and JSON readers accept silently, or is no text.
    """
    if at in lines or len(at) > _MAX_DEPTH:
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
            _record_lines(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _record_lines(item, (*at, index), lines, path)


def _check_texts(node: yaml.Node, text: str, path: Path, *, within: str | None = None) -> None:
    """Reject a prompt or variable of which YAML would leave out words: they are part of what is paid for.

    Args:
        node: The node that is looked through, with all below it.
        text: The file's text.
        path: The file, for the message.
        within: The field of `_PAID_FIELDS` that the node is below; None where it is below none.

    Raises:
        InvalidInput: A prompt without quotes ends in a comment, or a variable would be put into it as another number.
    """
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if within and isinstance(item, yaml.ScalarNode):
                _check_comment("an entry of the list", node, item, text, path)
            _check_texts(item, text, path, within=within)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if (within or key.value in _TEXT_FIELDS) and isinstance(value, yaml.ScalarNode):
                _check_comment(key.value, key, value, text, path)
            if within in _VARIABLE_FIELDS and key.value not in VALUE_FIELDS:
                _check_numbers(key.value, value, path)
            field = key.value if key.value in _PAID_FIELDS else None
            _check_texts(value, text, path, within=within or field)


def _check_comment(name: str, begin: yaml.Node, value: yaml.ScalarNode, text: str, path: Path) -> None:
    """Reject a scalar without quotes that a comment follows on its last line, or on a line that continues it.

    Args:
        name: What the scalar is, for the message.
        begin: The scalar's name, or the list that it is in: what is further in belongs to the scalar.
        value: The scalar.
        text: The file's text.
        path: The file, for the message.
    """
    if value.style in ("'", '"') or (value.tag in _AS_WRITTEN and name not in _TEXT_FIELDS):
        # Nothing but a comment can follow a number.
        return
    rest = text[value.end_mark.index :]
    comment = None if value.style else _COMMENT.match(rest)
    below = _COMMENT_BELOW_BLOCK if value.style else _COMMENT_BELOW
    if comment is None and (following := below.match(rest)):
        # A comment at the column of the fields is about the next field; one further in continues the text.
        comment = following if len(following["indent"]) > begin.start_mark.column else None
    if comment is not None:
        line = value.end_mark.line + 1 + len(re.findall(_BREAK, rest[: comment.end()]))
        raise InvalidInput(
            f"{path}:{line}: {name}: YAML leaves out {_shorten(comment['comment'].rstrip())}, as a comment:"
            " put the whole text in quotes"
        )


def _check_numbers(name: str, node: yaml.Node, path: Path) -> None:
    """Reject a number, or a list with one, that a prompt would have in another form, such as `4.5` for `4.50`."""
    for value in node.value if isinstance(node, yaml.SequenceNode) else (node,):
        read = _AS_WRITTEN.get(value.tag) if isinstance(value, yaml.ScalarNode) else None
        if read is not None and (written := as_text(read(value.value))) != value.value:
            raise InvalidInput(
                f"{path}:{value.start_mark.line + 1}: {name}: {value.value} would be {written} in a prompt: put it in"
                " quotes"
            )


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _left_out(text: str, kind: str) -> str:
    return f"`{text}` would be left out, as {kind}: put the whole text in quotes"


class _Loader(yaml.SafeLoader):
    """YAML loader with the scalars of YAML 1.2: 1.1 would read an unquoted `16:9` as the number 969, and `no` as false.

    What begins with a zero, such as `007`, is a text: the constructor of 1.1 would read `010` as 8.

    Aliases are rejected: nested ones expand to gigabytes. Anchors and tags are too: nothing needs them, and what was
    meant as the first word of a prompt, such as `&dog` or `!wow`, would be left out of it.
    """

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  the base class declares it as an instance's

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None,
                None,
                f"`*{event.anchor}` would be an alias, and aliases are not taken (use `defaults:`);"
                " if it is part of a text, put the whole text in quotes",
                event.start_mark,
            )
        mark: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(mark, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                _left_out(f"&{mark.anchor}", "an anchor (aliases are not taken, use `defaults:`)"),
                mark.start_mark,
            )
        if getattr(mark, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, _left_out(mark.tag, "a tag"), mark.start_mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
