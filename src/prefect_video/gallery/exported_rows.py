"""Rows of a project for other programs, one a take, and a sheet of its prompts for people who work by hand."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Final, Literal

from prefect_video._clean_text import clean_cell, clean_text
from prefect_video.downloads import show_source
from prefect_video.errors import InvalidInput
from prefect_video.gallery.manifest import Manifest, ShotRecord, TakeRecord
from prefect_video.shots import Shot

RowFormat = Literal["csv", "jsonl", "parquet"]

EXTRA: Final = "prefect-video[parquet]"
_TEXTS: Final = (
    "project", "shot", "prompt", "status", "provider", "model", "generation_id", "job_id", "fingerprint", "uri",
    "thumbnail_uri", "sha256", "error", "remedy", "degraded", "content_credentials",
)  # fmt: skip
_LISTS: Final = ("depends_on", "notes")
_WHOLE: Final = ("take", "attempts", "bytes", "width", "height")
_TIMES: Final = ("reserved_at", "sent_at", "completed_at", "stored_at")
_SECONDS: Final = ("generation_seconds", "duration_seconds")

COLUMNS: Final = (
    "project", "shot", "take", "status", "chosen", "prompt", "depends_on", "provider", "model", "cost_usd", "attempts",
    "duration_seconds", "width", "height", "bytes", "uri", "thumbnail_uri", "sha256", "generation_id", "job_id",
    "fingerprint", "reserved_at", "sent_at", "completed_at", "stored_at", "generation_seconds", "degraded", "notes",
    "content_credentials", "error", "remedy",
)  # fmt: skip
"""Names of the columns, in order."""


def read_rows(manifest: Manifest, *, folder: str) -> list[dict[str, Any]]:
    """Return a row for each take of a project, with the values of `COLUMNS`.

    Args:
        manifest: The project.
        folder: Address of its folder in the store, for the addresses of files.
    """
    return [
        _row(manifest.project, shot, take, folder) for shot in manifest.shots if shot.in_project for take in shot.takes
    ]


def write_rows(manifest: Manifest, format: RowFormat, *, folder: str) -> bytes:
    """Write the takes of a project as CSV, JSON lines or Parquet.

    Args:
        manifest: The project.
        format: The format. CSV holds text that no spreadsheet takes for a formula; JSON lines and Parquet hold it as
            it is.
        folder: Address of its folder in the store.

    Raises:
        InvalidInput: Parquet needs a package that is not installed.
    """
    rows = read_rows(manifest, folder=folder)
    if format == "parquet":
        return _write_parquet(rows)
    return _write_csv(rows) if format == "csv" else _write_json_lines(rows)


def require_parquet() -> None:
    """Refuse to go on without the writer of Parquet files.

    Raises:
        InvalidInput: It is not installed; the message names what to install.
    """
    if find_spec("pyarrow") is None:
        raise InvalidInput(f"Parquet is written by pyarrow, which is not installed: pip install '{EXTRA}'")


def write_sheet(manifest: Manifest, shots: Iterable[Shot] = ()) -> bytes:
    """Write the shots of a project as Markdown, each with its prompt in a block to copy and what else is requested.

    Args:
        manifest: The project.
        shots: Its shots as the project file has them, which says where their images are; a manifest has names alone.
    """
    places = {shot.id: {name: list(map(show_source, images)) for name, images in shot.images.items()} for shot in shots}
    lines = [f"# {_as_line(manifest.project)}", ""]
    for number, shot in enumerate([shot for shot in manifest.shots if shot.in_project], start=1):
        lines += [*_describe_shot(shot, number, places.get(shot.id, {})), ""]
    return "\n".join(lines).encode("utf-8", errors="replace")


def _row(project: str, shot: ShotRecord, take: TakeRecord, folder: str) -> dict[str, Any]:
    video = take.video
    known = {
        "project": project,
        "shot": shot.id,
        "depends_on": list(shot.depends_on),
        **{name: getattr(take, name) for name in COLUMNS if hasattr(take, name)},
    }
    if video:
        credentials = video.content_credentials
        known |= {name: getattr(video, name) for name in COLUMNS if hasattr(video, name)}
        known |= {
            "uri": _address(folder, video.path),
            "thumbnail_uri": _address(folder, video.thumbnail),
            "notes": list(video.notes),
            "content_credentials": credentials.state if credentials else None,
        }
    return {name: known.get(name, [] if name in _LISTS else None) for name in COLUMNS}


def _address(folder: str, path: str | None) -> str | None:
    if path is None:
        return None
    scheme, _, place = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(f'{place}/{path}')}"


def _write_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([[_cell(value) for value in row.values()] for row in rows])
    return text.getvalue().encode("utf-8", errors="replace")


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case list():
            return clean_cell("; ".join(value))
        case str():
            return clean_cell(value)
        case bool():
            return str(value).lower()
        case datetime():
            return value.isoformat()
    return str(value)


def _write_json_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    # ASCII: whatever a prompt holds, a terminal sees its spelling.
    return "".join(json.dumps(row, default=_as_json) + "\n" for row in rows).encode("ascii")


def _as_json(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else float(value)


def _write_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    require_parquet()
    import pyarrow
    from pyarrow import parquet

    kinds = {
        **dict.fromkeys(_TEXTS, pyarrow.string()),
        **dict.fromkeys(_LISTS, pyarrow.list_(pyarrow.string())),
        **dict.fromkeys(_WHOLE, pyarrow.int64()),
        **dict.fromkeys(_TIMES, pyarrow.timestamp("us", tz="UTC")),
        **dict.fromkeys(_SECONDS, pyarrow.float64()),
        "cost_usd": pyarrow.decimal128(18, 6),
        "chosen": pyarrow.bool_(),
    }
    schema = pyarrow.schema([(name, kinds[name]) for name in COLUMNS])
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), content)
    return content.getvalue()


def _describe_shot(shot: ShotRecord, number: int, images: Mapping[str, list[str]]) -> Iterator[str]:
    done = all(take.status == "stored" for take in shot.takes)
    yield f"## {'☑' if done else '☐'} {number}. {_as_line(shot.id)}"
    yield ""
    prompt = clean_text(shot.prompt, lines=True)
    # A fence longer than any in the prompt: else the prompt could end its block.
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", prompt)), default=0))
    yield from (fence, prompt, fence, "")
    for name, value in {**shot.request, **images}.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield f"- {name.replace('_', ' ')}: {_as_line(shown)}"
    if len(shot.takes) > 1:
        yield f"- takes: {len(shot.takes)}"
    if shot.depends_on:
        yield f"- after: {', '.join(map(_as_line, shot.depends_on))}"


def _as_line(text: str) -> str:
    """Return a text as one line of Markdown, without its marks."""
    return re.sub(r"([\\`*_\[\]<>#|&])", r"\\\1", clean_text(text))
