"""The text of project files, parsed into data and lines: YAML 1.2 and JSON, of which no word is lost silently."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from prefect_video.errors import InvalidInput
from prefect_video.field_errors import shorten_value
from prefect_video.templates import VALUE_FIELDS, FieldPath, Scalar, as_text

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

_ODD: Final = re.compile("[\t\ufeff\ud800-\udfff]")
"""Tabs, marks of byte order within a text, and halves of characters."""

_AS_WRITTEN: Final[Mapping[str, Callable[[str], Scalar]]] = {
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
}
"""Reads the plain scalars that are no texts, by tag."""


def read_text(path: Path) -> str:
    """Read a project file.

    Raises:
        InvalidInput: It cannot be read, is too large for a project file, or is not UTF-8.
    """
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InvalidInput(f"{path}: the file is over {FILE_LIMIT_BYTES // 2**20} MB; is it a project file?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: the file is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read the file: {error.strerror or error}") from error


def parse_text(text: str, path: Path) -> tuple[Any, dict[FieldPath, int]]:
    """Parse a file into its data and the line of each field; `.json` is read as JSON, any other as YAML 1.2.

    Raises:
        InvalidInput: It is neither, or has words that YAML would leave out of what is paid for.
    """
    return _parse_json(text, path) if path.suffix.lower() == ".json" else _parse_yaml(text, path)


def _parse_yaml(text: str, path: Path) -> tuple[Any, dict[FieldPath, int]]:
    try:
        loader, node = _compose(text)
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
        _, node = _compose(f"{text}\n")
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
            f"{path}:{line}: {name}: YAML leaves out {shorten_value(comment['comment'].rstrip())}, as a comment:"
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


def _left_out(text: str, kind: str) -> str:
    return f"`{text}` would be left out, as {kind}: put the whole text in quotes"


class _StrictComposer(Composer):
    """Composer of YAML's events into nodes that takes no aliases, anchors and tags.

    Nested aliases expand to gigabytes. Nothing needs anchors and tags either, and what was meant as the first word of a
    prompt, such as `&dog` or `!wow`, would be left out of it.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        parser: Any = self  # Whose events they are: it is joined with a parser.
        event: Any = parser.peek_event()
        if parser.check_event(yaml.AliasEvent):
            raise ComposerError(
                None,
                None,
                f"`*{event.anchor}` would be an alias, and aliases are not taken (use `defaults:`);"
                " if it is part of a text, put the whole text in quotes",
                event.start_mark,
            )
        if getattr(event, "anchor", None) is not None:
            raise ComposerError(
                None,
                None,
                _left_out(f"&{event.anchor}", "an anchor (aliases are not taken, use `defaults:`)"),
                event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise ComposerError(None, None, _left_out(event.tag, "a tag"), event.start_mark)
        return super().compose_node(parent, index)


class _Resolver(Resolver):
    """Resolver of the scalars of YAML 1.2: 1.1 would read an unquoted `16:9` as the number 969, and `no` as false.

    What begins with a zero, such as `007`, is a text: the constructor of 1.1 would read `010` as 8.
    """

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  the base class declares it as an instance's


class _Loader(_StrictComposer, _Resolver, yaml.SafeLoader):
    """Loader in Python, whose errors say the most."""

    def __init__(self, text: str) -> None:
        yaml.SafeLoader.__init__(self, text)


if yaml.__with_libyaml__:

    class _FastLoader(_StrictComposer, _Resolver, yaml.CSafeLoader):
        """Loader with the parser in C: a project of a thousand shots takes 20 milliseconds instead of 150."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)


def _compose(text: str) -> tuple[SafeConstructor, yaml.Node | None]:
    """Compose YAML; return the node of its document, and what constructs data of it.

    Raises:
        yaml.YAMLError: It is none.
    """
    # Of these alone both parsers see different lines, or one of them takes what the other rejects.
    if yaml.__with_libyaml__ and text.endswith("\n") and not _ODD.search(text):
        # Of a mistake the other parser says more.
        with contextlib.suppress(yaml.YAMLError):
            fast = _FastLoader(text)
            return fast, fast.get_single_node()
    loader = _Loader(text)
    return loader, loader.get_single_node()


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Resolver.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
