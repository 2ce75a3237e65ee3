"""Removal of keys from what a server sends, before it becomes a message: a server may quote the key, in any encoding.

It is applied after decoding, and only to what messages are made of: ids, prompts and the like are evidence about money,
which a key of a few letters would spoil.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, Self

REDACTED: Final = "[key]"

_MESSAGE_FIELDS: Final = frozenset(
    {"error", "errors", "error_type", "message", "msg", "detail", "details", "title", "reason", "reasons", "status"}
    | {"code", "type", "logs"}
)
"""Fields whose content, with everything below it, may end in a message."""
_ID: Final = re.compile(r"(?:.*_)?id", re.IGNORECASE)
_PART_LENGTH: Final = 8
"""Characters from which a key, or a part of one, is found inside of words too; a shorter one only as a word."""
LONGEST_TEXT: Final = 20_000
"""Characters of a text that are looked at; the rest is left out, as no message is that long."""
_RECENT: Final = 256
"""Texts that are kept, up to `_RECENT_LENGTH` characters each."""
_RECENT_LENGTH: Final = 200
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/_=-]|\\{1,8}/|\\{1,8}u00[0-9A-Fa-f]{2}|%(?:25){0,3}[0-9A-Fa-f]{2}){2,}")
_ESCAPE: Final = re.compile(r"\\{1,8}(?:u00|x)([0-9A-Fa-f]{2})|%(?:25){0,3}([0-9A-Fa-f]{2})|\\{1,8}(?=/)")
_HEX: Final = re.compile(
    # Not within the code of another encoding: `%3a`, `\x3a`, `\u003a`, `&#x3a;`.
    r"(?<![%#0-9A-Fa-f])(?<!\\[xXuU])(?<!#[xX])"
    r"(?:0[xX])?[0-9A-Fa-f]+(?:[ \t\r\n:;,.-]{1,2}(?:0[xX])?[0-9A-Fa-f]+)*"
)
"""A run of hexadecimal digits, in groups of any size."""
_NO_HEX: Final = re.compile(r"0[xX]|[^0-9A-Fa-f]")
_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


class Redaction:
    """The keys of one client, and how to find them in texts.

    Args:
        secrets: The keys; a key of several parts, such as fal's `id:secret`, is found by each long part too.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = {part for secret in secrets for part in _split(secret)}
        self._words = [(_compile(part, plain=True), len(part) < _PART_LENGTH) for part in parts]
        self._shortest = min(map(len, parts), default=0)
        # The longest first: what is left of a longer key could not be found any more.
        patterns = [_compile(part, plain=False).pattern for part in sorted(parts, key=len, reverse=True)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None
        self._redact_recent = lru_cache(_RECENT)(self._redact)

    @classmethod
    def from_header(cls, authorization: str | None) -> Self:
        """Build the redaction of what an `Authorization` header holds."""
        return cls(filter(None, [(authorization or "").rpartition(" ")[2]]))

    def text(self, text: str) -> str:
        """Return a text without the keys, however they are encoded in it."""
        # Most texts are headers, and the same in each response.
        return self._redact_recent(text) if len(text) <= _RECENT_LENGTH else self._redact(text)

    def _redact(self, text: str) -> str:
        # No spelling is shorter than the key itself.
        if self._pattern is None or len(text) < self._shortest:
            return text
        text = _BASE64.sub(self._replace_base64, text[:LONGEST_TEXT])
        text = _HEX.sub(self._replace_hex, text)
        # Apart, as a key may be a word of what stands for it.
        return REDACTED.join(self._pattern.sub(REDACTED, piece) for piece in text.split(REDACTED))

    def document(self, document: Any) -> Any:
        """Return a decoded JSON document without the keys in the fields that messages are made of."""
        match document:
            case dict():
                return {
                    name: self._everything(value) if name in _MESSAGE_FIELDS else self.document(value)
                    for name, value in document.items()
                }
            case list():
                return [self.document(item) for item in document]
        return document

    def cause(self, error: BaseException) -> BaseException | None:
        """Return an error as the cause of another one; None where it, or what it came from, shows a key."""
        shown = "\n".join(str(link) for link in _chain(error))
        return None if self.text(shown) != shown else error

    def _everything(self, document: Any) -> Any:
        match document:
            case str():
                return self.text(document)
            case dict():
                # Of the names, too; an id stays what it is.
                return {
                    self.text(name): value if _ID.fullmatch(name) else self._everything(value)
                    for name, value in document.items()
                }
            case list():
                return [self._everything(item) for item in document]
        return document

    def _replace_base64(self, match: re.Match[str]) -> str:
        """Return what stands for a run of base64: nothing of it where it hides a key."""
        run = _ESCAPE.sub(_unescape, match[0]).translate(_FROM_URL_SAFE).rstrip("=")
        for piece in run.split("="):
            # What precedes the encoded text without a gap shifts it by up to three characters.
            for start in range(min(4, len(piece))):
                if self._is_in(_decode_base64(piece[start:])):
                    return REDACTED
        return match[0]

    def _replace_hex(self, match: re.Match[str]) -> str:
        """Return what stands for a run of hexadecimal digits: nothing of it where it hides a key."""
        digits = _NO_HEX.sub("", match[0])
        # A digit that precedes the encoded text shifts it by half a character.
        is_hidden = any(self._is_in(_decode_hex(digits[start:])) for start in range(2))
        return REDACTED if is_hidden else match[0]

    def _is_in(self, decoded: str) -> bool:
        """Return whether decoded text holds a key; a short one may be in any noise, so it must be readable text."""
        is_text = decoded.isascii() and decoded.isprintable()
        return any(pattern.search(decoded) for pattern, is_short in self._words if is_text or not is_short)


@lru_cache(maxsize=64)
def redaction_for(authorization: str | None) -> Redaction:
    """Return the redaction of an `Authorization` header, built once for each."""
    return Redaction.from_header(authorization)


def _split(secret: str) -> Iterator[str]:
    yield secret
    yield from (part for part in secret.split(":") if part != secret and len(part) >= _PART_LENGTH)


def _compile(secret: str, *, plain: bool) -> re.Pattern[str]:
    body = re.escape(secret) if plain else "".join(map(_spell, secret))
    return re.compile(body if len(secret) >= _PART_LENGTH else rf"(?<![A-Za-z0-9_]){body}(?![A-Za-z0-9_])")


def _spell(character: str) -> str:
    """Return a pattern of all spellings of a character: literal, JSON, percent, HTML, each escaped up to four times."""
    number = ord(character)
    code = "".join(f"[{digit}{digit.upper()}]" for digit in f"{number:02x}")
    spellings = [
        rf"\\{{0,8}}{re.escape(character)}",
        rf"\\{{1,8}}(?:u00|x){code}",
        rf"%(?:25){{0,3}}{code}",
        rf"&#0{{0,4}}{number};",
        rf"&#[xX]0{{0,4}}{code};",
    ]
    if (entity := html.escape(character)) != character:
        spellings.append(re.escape(entity))
    return f"(?:{'|'.join(spellings)})"


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else ""


def _decode_base64(text: str) -> str:
    usable = text[: len(text) - 1] if len(text) % 4 == 1 else text
    try:
        return base64.b64decode(usable + "=" * (-len(usable) % 4)).decode("latin-1")
    except (binascii.Error, ValueError):
        return ""


def _decode_hex(digits: str) -> str:
    return bytes.fromhex(digits[: len(digits) - len(digits) % 2]).decode("latin-1")


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
