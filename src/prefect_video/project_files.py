"""Project files in YAML and JSON, read with messages that name file, line, shot and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from prefect_video.errors import InvalidInput
from prefect_video.field_errors import describe_errors, format_line
from prefect_video.film import Cut
from prefect_video.project_text import parse_text, read_text
from prefect_video.projects import Project
from prefect_video.shots import is_web_address
from prefect_video.templates import FieldPath, Place, Scalar, expand_template


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
    text = read_text(path)
    try:
        data, lines = parse_text(text, path)
        return build_project(data, lines, str(path))
    except RecursionError as error:
        raise InvalidInput(f"{path}: its brackets are nested too deeply; is it a project file?") from error


def read_template(path: Path | str) -> tuple[dict[str, Any], dict[FieldPath, int]]:
    """Read the data of a project file without its shots, and the line of each field.

    Raises:
        InvalidInput: The file cannot be read, or holds no mapping.
    """
    path = Path(path)
    data, lines = parse_text(read_text(path), path)
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
        problems = [f"{format_line(source, error.at, lines)}: {error}" for error in expansion.problems]
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
            place = format_line(str(path), ("shots", number, "clip"), lines)
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
        f"{format_line(str(path), ('cut', *problem.at), lines)}: cut: {problem.message}"
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


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
