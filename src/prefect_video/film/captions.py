"""Captions: SRT and WebVTT files, read into cues."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from prefect_video.errors import InvalidInput
from prefect_video.film.cut import Captions, Cue

FILE_LIMIT_BYTES: Final = 8 * 2**20

_TIMES: Final = re.compile(
    r"^\s*(?P<start>(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})\s*-->\s*(?P<end>(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})(?:\s.*)?$"
)
_TAG: Final = re.compile(r"</?[a-zA-Z0-9][^>]*>|\{\\[^}]*\}")
"""Marks of style: `<i>`, `<v Roger>`, `<00:01.000>`, `{\\an8}`."""


def load_cues(captions: Captions) -> tuple[Cue, ...]:
    """Return the cues of captions by their start, read from the file where they have one.

    Raises:
        InvalidInput: The file cannot be read, or is neither SRT nor WebVTT; the message names its line.
    """
    cues = captions.cues if captions.file is None else tuple(read_captions(Path(captions.file)))
    return tuple(sorted(cues, key=lambda cue: (cue.start, cue.end)))


def read_captions(path: Path) -> list[Cue]:
    """Read an SRT or WebVTT file; styles and settings are left out.

    Raises:
        InvalidInput: The file cannot be read, or is neither; the message names its line.
    """
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise InvalidInput(f"{path}: the file is over {FILE_LIMIT_BYTES // 2**20} MB; is it a file of captions?")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: the file is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot read the file: {error.strerror or error}") from error
    cues = list(_parse(text, path))
    if not cues:
        raise InvalidInput(
            f"{path}: no caption was found: SRT or WebVTT has lines such as 00:00:01,000 --> 00:00:03,500"
        )
    return cues


def _parse(text: str, path: Path) -> Iterator[Cue]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        times = _TIMES.match(lines[number])
        if times is None:
            if "-->" in lines[number]:
                raise InvalidInput(f"{path}:{number + 1}: {lines[number].strip()[:60]!r} is no pair of times")
            # Numbers, identifiers, the header and notes: everything that stands before a pair of times.
            number += 1
            continue
        first, number = number + 1, number + 1
        while number < len(lines) and lines[number].strip():
            number += 1
        content = html.unescape(_TAG.sub("", "\n".join(line.strip() for line in lines[first:number]))).strip()
        if content:
            yield _build_cue(times, content, path, first)


def _build_cue(times: re.Match[str], text: str, path: Path, line: int) -> Cue:
    try:
        return Cue(start=_seconds(times["start"]), end=_seconds(times["end"]), text=text)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise InvalidInput(f"{path}:{line}: {reason}") from error


def _seconds(stamp: str) -> float:
    *hours, minutes, seconds = stamp.replace(",", ".").split(":")
    return int(hours[0] if hours else 0) * 3600 + int(minutes) * 60 + float(seconds)
