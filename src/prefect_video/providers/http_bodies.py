"""Bodies of HTTP responses, read within bounds: bytes after inflation, depth of nesting, usable numbers.

Whatever a server sends, reading it takes no more memory than allowed and raises nothing but `InvalidResponse`.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import Any, Final

import httpx

from prefect_video.errors import InvalidResponse

MAX_RETRY_AFTER_SECONDS: Final = 31 * 86_400.0
"""Longest delay before a paid request that a server can impose: quotas are renewed by the month."""
MAX_POLL_DELAY_SECONDS: Final = 300.0
"""Longest delay before a poll that a server can impose: a paid video may be deleted by then."""
ACCEPTED_ENCODINGS: Final = "gzip"
"""Encoding that is requested and can be inflated here piece by piece; a body in any other encoding is not read."""

_MAX_DEPTH: Final = 100
_MAX_DIGITS: Final = 40
_PLAIN: Final = ("", "identity")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")
_UNUSABLE_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_UNUSABLE: Final = re.compile("[\x00\ud800-\udfff]")


async def read_body(response: httpx.Response, *, limit: int, provider: str) -> bytes:
    """Read the inflated body of a response that was opened as a stream.

    Args:
        response: The response, which the caller closes.
        limit: Maximum number of bytes, before and after inflation.
        provider: Name of the provider, for the error.

    Raises:
        InvalidResponse: The body is larger, nested deeper than any contract's, damaged, or in an unknown encoding.
        httpx.RequestError: The connection failed.
    """
    try:
        body = response.content if response.is_stream_consumed else await _inflate(response, limit)
        _check_size(len(body), limit)
        check_depth(body)
    except (ValueError, zlib.error) as error:
        raise InvalidResponse(
            f"{provider}: the answer (HTTP {response.status_code}) cannot be read: {error}", provider=provider
        ) from error
    return body


def decode_json(content: bytes) -> Any:
    """Decode JSON; unusable numbers (NaN, Infinity, 10^400) become None, and text is fit for any database.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    check_depth(content)
    document = json.loads(content, parse_constant=_drop_constant, parse_float=_parse_float, parse_int=_parse_int)
    return _clean(document) if _UNUSABLE_ESCAPE.search(content) else document


def usable_number(value: Any) -> float | None:
    """Return a finite number that is not negative, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


async def _inflate(response: httpx.Response, limit: int) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in (*_PLAIN, "gzip", "x-gzip"):
        raise ValueError(f"its encoding {encoding[:40]!r} was not requested")
    announced = usable_number(response.headers.get("content-length"))
    _check_size(announced or 0, limit)
    inflater = None if encoding in _PLAIN else zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    body, received = bytearray(), 0
    async for piece in response.aiter_raw():
        received += len(piece)
        _check_size(received, limit)
        # One byte above the limit is enough to know that there is more.
        body += piece if inflater is None else inflater.decompress(piece, limit - len(body) + 1)
        _check_size(len(body), limit)
    if inflater is not None and received and not inflater.eof:
        raise ValueError("its compressed body is cut off")
    return bytes(body)


def _check_size(size: float, limit: int) -> None:
    if size > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")


def check_depth(body: bytes) -> None:
    """Reject nesting that could exhaust the stack of recursive readers.

    Raises:
        ValueError: It is nested too deeply.
    """
    if body.lstrip()[:1] not in (b"[", b"{") or body.count(b"[") + body.count(b"{") <= _MAX_DEPTH:
        return
    depth = 0
    # Brackets inside strings do not nest.
    for bracket in _BRACKETS.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _drop_constant(_constant: str) -> None:
    return None


def _parse_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _parse_int(text: str) -> int | None:
    # Some ids are long numbers; even longer ones mean nothing and are slow to convert.
    return int(text) if len(text) <= _MAX_DIGITS else None


def _clean(document: Any) -> Any:
    match document:
        case str():
            return _UNUSABLE.sub("\N{REPLACEMENT CHARACTER}", document)
        case list():
            return [_clean(item) for item in document]
        case dict():
            return {_clean(name): _clean(item) for name, item in document.items()}
    return document
