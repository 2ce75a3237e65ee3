"""Text as it may leave: to a terminal, a log, an artifact, a page or a spreadsheet, none of which it may command.

Prompts, names of models and providers' messages are other people's text. Escape sequences move cursors and set titles,
line breaks forge lines of a log, marks of text direction show a text in another order than it has.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Final

_ACTIVE: Final = (
    # Controls but tab and line feed, with those of 8 bits.
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Direction, separators, and what is not seen.
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    # Halves of pairs, and tags.
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_CHARACTERS: Final = re.compile(f"[{_ACTIVE}]")
_BREAKS: Final = re.compile(r"[ \t]*[\t\r\n]+[ \t]*")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that spreadsheets take for a formula."""


def clean_text(text: str, *, lines: bool = False) -> str:
    """Return a text with every character that would be acted upon spelled out, an escape for example as `u001b`.

    Args:
        text: The text.
        lines: Whether line feeds and tabs are part of its form, and stay; else they become blanks.
    """
    return _CHARACTERS.sub(_spell, text if lines else _BREAKS.sub(" ", text))


def clean_cell(text: str) -> str:
    """Return a text as a cell of a spreadsheet: never a formula."""
    cleaned = clean_text(text)
    return f"'{cleaned}" if text.startswith(_FORMULA) else cleaned


def clean_json(document: Any) -> str:
    """Return a document as indented JSON, readable and without characters that a terminal would act upon."""
    return clean_text(json.dumps(document, indent=2, ensure_ascii=False), lines=True)


def enable_clean_logs() -> None:
    """Clean every record of this package, whatever handlers a program sends it to; a second call does nothing."""
    factory = logging.getLogRecordFactory()
    if getattr(factory, "cleans_prefect_video", False):
        return

    def build_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        if record.name.startswith("prefect_video"):
            message = record.getMessage()
            if (cleaned := clean_text(message)) != message:
                record.msg, record.args = cleaned, None
        return record

    build_record.cleans_prefect_video = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(build_record)


def _spell(match: re.Match[str]) -> str:
    # As JSON spells it, so that JSON stays JSON.
    code = ord(match[0])
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(match[0])[1:-1]
