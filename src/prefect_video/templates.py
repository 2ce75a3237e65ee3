"""Templates: variables in the texts of a project file, a prefix and a suffix of every prompt, and a matrix of variants.

They are expanded when a file is read: a `Project` is always concrete. A placeholder is `{name}`; nothing in it is
evaluated. Texts are templates only where the file has `variables`, or the shot a `matrix`: elsewhere a brace is a
brace, as in prompts that are JSON.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prefect_video.projects import SHOTS_LIMIT, LocatedError
from prefect_video.shots import ShotDefaults

FieldPath = tuple[str | int, ...]
"""Names and indices from the document's root to a field, such as `("shots", 3, "duration")`."""

Place = int | str
"""Line in the file that is read, or `file:line` of another one."""

PROMPT_PARTS: Final = ("prompt_prefix", "prompt_suffix")
NAME_FIELDS: Final = frozenset({"id", "depends_on", "continue_from", "remix_of"})
"""Fields that hold the names of shots: a value becomes part of one in the form of a name."""

VALUE_FIELDS: Final = frozenset(
    [
        "duration",
        "seed",
        "seeds",
        "fps",
        "num_frames",
        "num_inference_steps",
        "guidance_scale",
        "takes",
        "audio",
        "watermark",
    ]
)
"""Fields that are not text: where one is a placeholder and nothing else, it takes the value as it is."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|[{}]")

Scalar = str | int | float | bool


@dataclass
class Expansion:
    """The shots of a template, with the errors in it.

    Attributes:
        data: The project's data, with concrete shots.
        sources: The index, in the file, of the shot that each shot is from.
        problems: What is wrong with the template, and where.
    """

    data: dict[str, Any]
    sources: tuple[int, ...] = ()
    problems: list[LocatedError] = field(default_factory=list)

    def move_lines(self, lines: Mapping[FieldPath, Place]) -> dict[FieldPath, Place]:
        """Return the line of each field of the concrete shots, given those of the file."""
        if self.sources == tuple(range(len(self.sources))):
            return dict(lines)
        by_source: dict[int, list[tuple[FieldPath, Place]]] = {}
        moved: dict[FieldPath, Place] = {}
        for path, line in lines.items():
            if path[:1] == ("shots",) and len(path) > 1 and isinstance(path[1], int):
                by_source.setdefault(path[1], []).append((path[2:], line))
            else:
                moved[path] = line
        for index, source in enumerate(self.sources):
            moved.update((("shots", index, *rest), line) for rest, line in by_source.get(source, ()))
        return moved


def expand_template(data: Mapping[str, Any], rows: Sequence[Mapping[str, Scalar]] | None = None) -> Expansion:
    """Expand variables, prompt parts and matrices of a project's data; what is no template stays as it is.

    Args:
        data: The data of a project file, not validated yet.
        rows: For each shot its own variables, where the shots are made from rows.
    """
    project = {key: value for key, value in data.items() if key != "variables"}
    expansion = Expansion(project)
    shots, defaults = data.get("shots"), data.get("defaults")
    variables = _read_variables(data.get("variables"), expansion.problems)
    if not isinstance(shots, list | tuple):
        return expansion
    if isinstance(defaults, dict):
        project["defaults"] = {name: value for name, value in defaults.items() if name not in PROMPT_PARTS}
    known = defaults if isinstance(defaults, dict) else {}
    expander = _Expander(known, variables, data.get("variables") is not None or rows is not None, expansion.problems)
    expanded: list[tuple[int, Any]] = []
    for index, shot in enumerate(shots):
        expanded += ((index, variant) for variant in expander.expand(index, shot, rows[index] if rows else {}))
        if len(expanded) > SHOTS_LIMIT:
            expansion.problems.append(
                LocatedError(f"at most {SHOTS_LIMIT:,} shots: the matrices make more", "shots", index)
            )
            break
    expansion.sources = tuple(source for source, _ in expanded)
    project["shots"] = _name_variants([shot for _, shot in expanded], shots, expansion.sources)
    return expansion


def substitute(text: str, variables: Mapping[str, Scalar]) -> str:
    """Put values in place of the placeholders of a text; `{{` and `}}` are braces.

    Raises:
        ValueError: A placeholder has no variable, or a brace belongs to none.
    """

    def replace(match: re.Match[str]) -> str:
        token, name = match[0], match["name"]
        if token in ("{{", "}}"):
            return token[0]
        if name is None or not _NAME.fullmatch(name):
            raise ValueError(f"`{token}` is no placeholder such as {{name}}: write `{{{{` and `}}}}` for braces")
        if name not in variables:
            known = ", ".join(map(str, variables)) or "none"
            raise ValueError(f"{{{name}}} is not a variable; there are: {known}. For braces write `{{{{` and `}}}}`")
        return as_text(variables[name])

    return _TOKEN.sub(replace, text)


def as_text(value: Scalar) -> str:
    """Write a value as a text has it: whole numbers without a fraction, true and false in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def name_part(value: Scalar) -> str:
    """Return the form of a value that may be part of a shot's id, such as `rio-de-janeiro`; empty where none is."""
    return "-".join(re.findall(r"[a-z0-9]+(?:\.[0-9]+)?", as_text(value).lower()))


@dataclass(frozen=True)
class _Expander:
    """The parts of a project that the expansion of a shot needs.

    Attributes:
        defaults: The project's defaults.
        variables: The project's variables.
        is_template: Whether every shot's texts are templates.
        problems: The list that errors are added to.
    """

    defaults: Mapping[str, Any]
    variables: Mapping[str, Scalar]
    is_template: bool
    problems: list[LocatedError]

    def expand(self, index: int, shot: Any, row: Mapping[str, Scalar]) -> list[Any]:
        """Return the concrete shots that a shot stands for."""
        if not isinstance(shot, dict):
            return [shot]
        axes = self._read_matrix(index, shot)
        plain = {name: value for name, value in shot.items() if name != "matrix"}
        if not axes:
            return [self._fill(index, plain, {**self.variables, **row}, self.is_template)]
        if math.prod(map(len, axes.values())) > SHOTS_LIMIT:
            self._report(index, shot, "matrix", f"it makes over {SHOTS_LIMIT:,} shots")
            return []
        return [self._make_variant(index, plain, axes, row, place) for place in _places(axes)]

    def _make_variant(
        self,
        index: int,
        shot: dict[str, Any],
        axes: Mapping[str, Sequence[Scalar]],
        row: Mapping[str, Scalar],
        place: Sequence[int],
    ) -> Any:
        values = {name: options[number] for (name, options), number in zip(axes.items(), place, strict=True)}
        named = dict(shot)
        if isinstance(shot.get("id"), str) and "{" not in shot["id"]:
            # A value without a letter or digit of ASCII is named by its place.
            parts = (name_part(value) or str(number + 1) for value, number in zip(values.values(), place, strict=True))
            named["id"] = "-".join((shot["id"], *parts))
        fields = {name: value for name, value in values.items() if name in ShotDefaults.model_fields}
        return self._fill(index, {**named, **fields}, {**self.variables, **row, **values}, True)

    def _read_matrix(self, index: int, shot: Mapping[str, Any]) -> dict[str, Sequence[Scalar]]:
        matrix = shot.get("matrix")
        if matrix is None:
            return {}
        if not isinstance(matrix, dict) or not matrix:
            self._report(index, shot, "matrix", "a mapping of names to lists, such as {light: [dawn, dusk]}")
            return {}
        for name, options in matrix.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                self._report(index, shot, "matrix", f"{name!r} is not a name: use letters, digits and `_`")
            elif not isinstance(options, list | tuple) or not options or not all(map(_is_scalar, options)):
                self._report(index, shot, "matrix", f"{name}: a list of texts or numbers")
            else:
                continue
            return {}
        return dict(matrix)

    def _fill(self, index: int, shot: dict[str, Any], variables: Mapping[str, Scalar], is_template: bool) -> Any:
        """Return a shot with its prompt parts joined, and with values in place of placeholders."""
        # A default is a template too, for which each shot has values of its own.
        merged = {**{name: value for name, value in self.defaults.items() if value is not None}, **_given(shot)}
        parts = {name: merged.pop(name, None) for name in PROMPT_PARTS}
        filled = {name: value for name, value in shot.items() if name not in PROMPT_PARTS}
        if is_template:
            for name, value in merged.items():
                if name in shot or _has_brace(value):
                    filled[name] = self._substitute(index, shot, name, value, variables)
            parts = {name: self._substitute(index, shot, name, value, variables) for name, value in parts.items()}
        for name, value in parts.items():
            if value is not None and not isinstance(value, str):
                self._report(index, shot, name, "text in quotes")
                return filled
        # A blank prompt stays blank, and is refused as such.
        if isinstance(filled.get("prompt"), str) and filled["prompt"].strip():
            filled["prompt"] = _join(parts["prompt_prefix"], filled["prompt"], parts["prompt_suffix"])
        return filled

    def _substitute(
        self, index: int, shot: Mapping[str, Any], name: str, value: Any, variables: Mapping[str, Scalar]
    ) -> Any:
        if isinstance(value, list | tuple):
            return [self._substitute(index, shot, name, item, variables) for item in value]
        if isinstance(value, dict):
            return {key: self._substitute(index, shot, name, item, variables) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        if name in VALUE_FIELDS and (whole := _TOKEN.fullmatch(value)) and whole["name"] in variables:
            return variables[whole["name"]]
        if name in NAME_FIELDS:
            variables = {known: name_part(given) for known, given in variables.items()}
        try:
            return substitute(value, variables)
        except ValueError as error:
            self._report(index, shot, name, str(error))
            return value

    def _report(self, index: int, shot: Mapping[str, Any], name: str, reason: str) -> None:
        place: FieldPath = ("shots", index, name) if name in shot else ("defaults", name)
        label = f"shot {shot['id']!r}" if isinstance(shot.get("id"), str) else f"shot number {index + 1}"
        self.problems.append(LocatedError(f"{label}: {name}: {reason}", *place))


def _read_variables(given: Any, problems: list[LocatedError]) -> dict[str, Scalar]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(LocatedError("variables: a mapping of names to texts", "variables"))
        return {}
    for name, value in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            message = f"variables: {name!r} is not a name: use letters, digits and `_`"
            problems.append(LocatedError(message, "variables", str(name)))
        elif not _is_scalar(value):
            problems.append(LocatedError(f"variables: {name}: a text or a number", "variables", name))
    return {name: value for name, value in given.items() if _is_scalar(value)}


def _name_variants(shots: list[Any], sources: Sequence[Any], origins: Sequence[int]) -> list[Any]:
    """Let dependencies on a shot with a matrix be dependencies on all of its variants."""
    variants: dict[str, list[str]] = {}
    for shot, origin in zip(shots, origins, strict=True):
        source = sources[origin]
        if isinstance(source, dict) and source.get("matrix") and isinstance(source.get("id"), str):
            variants.setdefault(source["id"], []).append(shot.get("id"))
    if not variants:
        return shots
    return [
        {**shot, "depends_on": list(_flatten(shot["depends_on"], variants))}
        if isinstance(shot, dict) and isinstance(shot.get("depends_on"), list | tuple)
        else shot
        for shot in shots
    ]


def _flatten(needed: Sequence[Any], variants: Mapping[str, Sequence[str]]) -> Iterator[Any]:
    for name in needed:
        yield from variants.get(name, (name,)) if isinstance(name, str) else (name,)


def _places(axes: Mapping[str, Sequence[Scalar]]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(options)) for options in axes.values()))


def _join(prefix: str | None, prompt: str, suffix: str | None) -> str:
    """Join the parts of a prompt, with a space where neither side has one."""
    text = prompt
    if prefix:
        text = f"{prefix}{'' if prefix[-1:].isspace() else ' '}{text}"
    return f"{text}{'' if suffix[:1].isspace() or text[-1:].isspace() else ' '}{suffix}" if suffix else text


def _given(shot: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shot.items() if value is not None}


def _has_brace(value: Any) -> bool:
    if isinstance(value, str):
        return "{" in value or "}" in value
    if isinstance(value, dict):
        return any(map(_has_brace, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_brace, value))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)
