"""Rows: a project from a table, with one shot for each row.

A table is a CSV, JSONL or Parquet file, or a list of mappings. Every column is a variable of the template's `shot`; one
that is named like a field of a shot sets it, where the template leaves it open; any other is kept in the shot's
metadata, and comes back with the report.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prefect_video.errors import InvalidInput
from prefect_video.project_files import build_project, read_template
from prefect_video.project_text import FILE_LIMIT_BYTES
from prefect_video.projects import SHOTS_LIMIT, Project
from prefect_video.shots import Shot, slug
from prefect_video.templates import PROMPT_PARTS, FieldPath, Place, Scalar, as_text

TABLE_SUFFIXES: Final = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
"""Endings of the files that hold rows."""

_DELIMITERS: Final = ",;\t|"
_LISTS: Final = frozenset({"references", "depends_on", "seeds"})
_FIELDS: Final = (frozenset(Shot.model_fields) - {"remixed_from"}) | set(PROMPT_PARTS)
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_SPREADSHEET_ERROR: Final = re.compile(r"#(?:REF!|NAME\?|VALUE!|DIV/0!|N/A|NULL!|NUM!|SPILL!|CALC!)")
_FORMULA: Final = re.compile(r"[=@]\s*[A-Za-z(+\-\"$][^\s]*[(&!$:0-9]")
_TEXTS: Final = frozenset(
    {
        "id",
        "prompt",
        "negative_prompt",
        "model",
        "continue_from",
        "remix_of",
        "first_frame",
        "last_frame",
        "clip",
        *PROMPT_PARTS,
    }
)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: Its line in the file, or its number, from 1.
        cells: Its values by column, without those that are empty.
    """

    line: int
    cells: Mapping[str, Any]


def project_from_rows(
    rows: Iterable[Mapping[str, Any]] | Path | str, template: Mapping[str, Any] | Path | str | None = None
) -> Project:
    """Build a project with one shot for each row.

    Args:
        rows: Mappings of columns to values (a data frame's `to_dict("records")`), or a CSV, JSONL or Parquet file.
        template: A project file, or its data, with a `shot` in place of `shots`: the shot of every row, in whose texts
            `{column}` is the row's value. None where the columns are the fields of shots.

    Raises:
        InvalidInput: The table, the template or a shot is not valid; one line for each error, with the row's line.
    """
    if isinstance(rows, Path | str):
        source, table = str(rows), read_rows(rows)
        name = slug(Path(rows).stem, fallback="rows")
    else:
        source, name = "rows", "rows"
        table = [Row(number, _drop_empty(row)) for number, row in enumerate(rows, 1)]
    if not table:
        raise InvalidInput(f"{source}: there are no rows")
    if len(table) > SHOTS_LIMIT:
        raise InvalidInput(f"{source}: at most {SHOTS_LIMIT:,} rows; there are {len(table):,}")
    data, lines, template_source = _read_template(template, name)
    pattern = data.pop("shot", None)
    pattern = {} if pattern is None else pattern
    if "shots" in data or not isinstance(pattern, dict):
        raise InvalidInput(
            f"{template_source}: a template has `shot`, a mapping, in place of `shots`: the shots are the rows"
        )
    variables = [_variables(row) for row in table]
    data["shots"] = [_build_shot(row, pattern, source) for row in table]
    return build_project(data, _find_places(table, lines, template_source), source, rows=variables)


def read_rows(path: Path | str) -> list[Row]:
    """Read the rows of a CSV, JSONL or Parquet file; an empty cell is as no cell.

    Raises:
        InvalidInput: The file cannot be read, or is no such table; the message names the line.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in TABLE_SUFFIXES:
        raise InvalidInput(f"{path}: rows are read from {', '.join(sorted(TABLE_SUFFIXES))}")
    content = _read(path)
    if kind == ".parquet":
        return list(_read_parquet(path, content))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: the file is not UTF-8 text (byte {error.start}): save it as CSV UTF-8") from error
    return list(_read_csv(path, text) if kind in (".csv", ".tsv") else _read_jsonl(path, text))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InvalidInput(f"{path}: the file is over {FILE_LIMIT_BYTES // 2**20} MB; is it a table of shots?")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read the file: {error.strerror or error}") from error


def _read_csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_find_delimiter(path, text), strict=True)
    columns: list[str] = []
    line = 0
    try:
        for cells in reader:
            # A cell may have line breaks: a row begins behind the end of the row before it.
            first, line = line + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _read_header(path, cells, first)
                continue
            if len(cells) != len(columns):
                raise InvalidInput(
                    f"{path}:{first}: the row has {len(cells)} cells and the header {len(columns)}: put a text with"
                    f" {reader.dialect.delimiter!r} or line breaks in quotes"
                )
            yield Row(first, _read_cells(path, first, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise InvalidInput(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _find_delimiter(path: Path, text: str) -> str:
    """Return the character between the names of the columns: spreadsheets write what their language separates by.

    Raises:
        InvalidInput: Two separate them equally often.
    """
    header = next((line for line in text.splitlines() if line.strip()), "")
    if path.suffix.lower() == ".tsv":
        return "\t"
    counts = sorted(((header.count(mark), mark) for mark in _DELIMITERS), reverse=True)
    if counts[0][0] and counts[0][0] == counts[1][0]:
        raise InvalidInput(f"{path}:1: are columns separated by {counts[0][1]!r} or {counts[1][1]!r}? Use commas")
    return counts[0][1] if counts[0][0] else ","


def _read_header(path: Path, cells: list[str], line: int) -> list[str]:
    columns = [cell.strip() for cell in cells]
    for name in columns:
        if not name:
            raise InvalidInput(f"{path}:{line}: column {columns.index(name) + 1} has no name")
        if columns.count(name) > 1:
            raise InvalidInput(f"{path}:{line}: there are two columns {name!r}")
    return columns


def _read_cells(path: Path, line: int, cells: Mapping[str, str]) -> dict[str, Any]:
    """Read the texts of a CSV row: numbers, true and false for the fields that hold them.

    Raises:
        InvalidInput: A cell holds a spreadsheet's error, or a formula in place of its value.
    """
    for name, cell in cells.items():
        if _SPREADSHEET_ERROR.fullmatch(cell.strip()) or (name in _FIELDS and _FORMULA.match(cell)):
            raise InvalidInput(f"{path}:{line}: {name}: {cell.strip()!r} is a spreadsheet's error or formula, no value")
    return {name: _read_text(name, cell.strip()) for name, cell in cells.items() if cell.strip()}


def _read_text(name: str, cell: str) -> Any:
    if name in _TEXTS or name not in _FIELDS:
        return cell
    if cell[0] in "[{":
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    if name in _LISTS:
        parts = [part.strip() for part in cell.split(";") if part.strip()]
        return [_read_value(part) for part in parts] if name == "seeds" else parts
    return _read_value(cell)


def _read_value(cell: str) -> Any:
    if _NUMBER.fullmatch(cell):
        return float(cell) if "." in cell else int(cell)
    return {"true": True, "false": False}.get(cell.lower(), cell)


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidInput(f"{path}:{number}: a row is an object, with one value for each column")
        yield Row(number, _drop_empty(row))


def _read_parquet(path: Path, content: bytes) -> Iterator[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise InvalidInput(
            f"{path}: Parquet files need pyarrow: pip install 'prefect-video[parquet]', or give CSV or JSONL"
        ) from error
    try:
        table = parquet.read_table(io.BytesIO(content))
    except (arrow.ArrowException, OSError) as error:
        raise InvalidInput(f"{path}: not a Parquet file: {error}") from error
    if table.num_rows > SHOTS_LIMIT:
        raise InvalidInput(f"{path}: at most {SHOTS_LIMIT:,} rows; there are {table.num_rows:,}")
    for number, row in enumerate(table.to_pylist(), 1):
        yield Row(number, _drop_empty(row))


def _drop_empty(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells that have a value, as Python's own types: a data frame has its own for numbers and for none."""
    cells = {str(name).strip(): _plain(value) for name, value in row.items()}
    return {name: value for name, value in cells.items() if value is not None and value != ""}


def _plain(value: Any) -> Any:
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        # NumPy's numbers and arrays.
        value = value.tolist()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers with a gap in it is one of floats.
        return int(value)
    return value.strip() if isinstance(value, str) and not value.strip() else value


def _read_template(
    template: Mapping[str, Any] | Path | str | None, name: str
) -> tuple[dict[str, Any], Mapping[FieldPath, int], str]:
    if template is None or isinstance(template, Mapping):
        return {"project": name} if template is None else dict(template), {}, "template"
    data, lines = read_template(template)
    return data, lines, str(template)


def _find_places(table: Sequence[Row], lines: Mapping[FieldPath, int], template: str) -> dict[FieldPath, Place]:
    """Return where each field is from: a row of the table, or a line of the template."""
    places: dict[FieldPath, Place] = {
        path: f"{template}:{line}" for path, line in lines.items() if path[:1] != ("shot",)
    }
    places[()] = template
    in_shot = {path[1:]: f"{template}:{line}" for path, line in lines.items() if path[:1] == ("shot",) and path[1:]}
    for index, row in enumerate(table):
        places["shots", index] = row.line
        places.update((("shots", index, *path), place) for path, place in in_shot.items() if path[0] != "id")
    return places


def _variables(row: Row) -> dict[str, Scalar]:
    """Return a row's values as variables, for a template's texts."""
    return {name: value for name, value in row.cells.items() if isinstance(value, str | int | float)}


def _build_shot(row: Row, pattern: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Build the data of a row's shot: the template's fields, then the columns that are named like one."""
    fields = {name: value for name, value in row.cells.items() if name in _FIELDS and name not in pattern}
    for name in _TEXTS & fields.keys():
        if isinstance(fields[name], int | float):
            fields[name] = as_text(fields[name])
    if "id" not in fields and "id" not in pattern:
        raise InvalidInput(f"{source}:{row.line}: the row has no `id`: add a column, or `id` to the template's `shot`")
    labels = {name: _label(value) for name, value in row.cells.items() if name not in _FIELDS}
    # A cell is no template: its braces are its own.
    fields = {name: _escape(value) for name, value in fields.items()}
    own = fields.pop("metadata", None) or pattern.get("metadata") or {}
    metadata = {**_escape(labels), **own} if isinstance(own, dict) else own
    return {**pattern, **fields, **({"metadata": metadata} if metadata else {})}


def _label(value: Any) -> str:
    return as_text(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value
