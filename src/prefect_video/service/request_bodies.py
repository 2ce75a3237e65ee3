"""Bodies of requests, read within bounds, and refused where their JSON cannot be processed or stored."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from prefect_video.providers import check_depth

_UNSTORABLE: Final = frozenset({0, *range(0xD800, 0xE000)})
"""NUL and the halves of surrogate pairs: JSON can spell them, databases and UTF-8 cannot."""


async def read_body(request: Request, limit: int) -> bytes | None:
    """Read the raw body; return None as soon as it is larger than the limit, in bytes.

    Raises:
        HTTPException: The client went away, or was too slow, before all of it had arrived.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        return None
    # Counted all the same: a body may have no declared length, or a false one.
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                return None
    except ClientDisconnect:
        raise HTTPException(408, "the body did not arrive") from None
    return bytes(body)


def require_usable_json(body: bytes) -> None:
    """Refuse JSON with what neither the ledger nor an answer could hold; and what is no JSON at all.

    Raises:
        HTTPException: It is no JSON (400), is nested too deeply, or holds NaN, an infinite number, NUL or half a
            surrogate pair (422).
    """
    try:
        check_depth(body)
        document = json.loads(body, parse_constant=_refuse_number, parse_float=_parse_finite)
        _require_storable(document)
    except json.JSONDecodeError as error:
        if not body:
            # Not every request has one; where it is needed, validation says so.
            return
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not JSON: it is not UTF-8") from None
    except ValueError as error:
        raise HTTPException(422, f"the body: {error}") from None


def _refuse_number(number: str) -> float:
    raise ValueError(f"{number} is no number that can be used")


def _parse_finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse_number(text[:20])


def _require_storable(document: Any) -> None:
    match document:
        case str():
            if not _UNSTORABLE.isdisjoint(map(ord, document)):
                raise ValueError("a text in it holds NUL or half a surrogate pair")
        case list():
            for item in document:
                _require_storable(item)
        case dict():
            for name, value in document.items():
                _require_storable(name)
                _require_storable(value)
