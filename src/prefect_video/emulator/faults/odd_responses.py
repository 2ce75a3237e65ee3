"""Answers that no contract knows: of a gateway's making, out of all bounds, or wrapped by a relay."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import Any, Final

from starlette.responses import Response

from prefect_video.emulator.faults.rules import FaultRule

_BLOCK: Final = 1 << 20
_MARK: Final = "number-of-a-fault"


def odd_answer(rule: FaultRule, response: Response) -> Response | None:
    """What is answered in place of a response, where the rule is of this kind."""
    match rule.kind:
        case "foreign_answer":
            return _foreign(rule)
        case "inflated":
            headers = {"content-encoding": "gzip", "content-type": "application/json"}
            return Response(_bomb(rule.inflates_to), response.status_code, headers)
        case "nested":
            return _json(b"[" * rule.depth + b"]" * rule.depth, response.status_code)
        case "odd_number":
            odd = json.dumps(_marked(json.loads(bytes(response.body)))).replace(f'"{_MARK}"', rule.number)
            return _json(odd.encode(), response.status_code)
        case "wrapped":
            wrapped = json.dumps({rule.wrapper: json.loads(bytes(response.body))})
            return _json(wrapped.encode(), response.status_code)
    return None


def _foreign(rule: FaultRule) -> Response:
    status = rule.foreign_status
    headers = {"location": "https://login.example/"} if status in (301, 302, 303, 307, 308) else {}
    match rule.foreign:
        case "html":
            page = f"<html><head><title>{status}</title></head><body><center>nginx</center></body></html>"
            return Response(page, status, headers, "text/html")
        case "json":
            return _json(b'{"message": "Forbidden"}', status, headers)
        case "problem":
            problem = {
                "type": "https://gateway.example/1020",
                "title": "Access denied",
                "status": status,
                "detail": "no",
            }
            return _json(json.dumps(problem).encode(), status, headers)
        case "text":
            return Response("upstream connect error", status, headers, "text/plain")
        case "empty":
            return Response(b"", status, headers)


def _json(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")


def _marked(document: Any) -> Any:
    """A document with a mark in the place of each number."""
    match document:
        case bool():
            return document
        case int() | float():
            return _MARK
        case list():
            return [_marked(item) for item in document]
        case dict():
            return {name: _marked(item) for name, item in document.items()}
    return document


@lru_cache(maxsize=2)
def _bomb(size: int) -> bytes:
    """A gzip body of blanks."""
    packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    block = b" " * _BLOCK
    packed = [packer.compress(block[: min(_BLOCK, size - start)]) for start in range(0, size, _BLOCK)]
    return b"".join([*packed, packer.flush()])
