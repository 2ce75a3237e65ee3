"""Responses outside of every contract: made by a gateway, beyond all bounds, or wrapped by a relay."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import Any, Final

from starlette.responses import Response

from prefect_video.emulator.faults.broken_lists import CREATED
from prefect_video.emulator.faults.rules import FaultRule

_BLOCK: Final = 1 << 20
_MARK: Final = "number-of-a-fault"  # replaced in the encoded text, since NaN and the like are not JSON values


def build_odd_response(rule: FaultRule, response: Response) -> Response | None:
    """Return the response that takes the place of a proper one; None if the rule is of another kind."""
    match rule.kind:
        case "foreign_answer":
            return _build_gateway_response(rule)
        case "inflated":
            headers = {"content-encoding": "gzip", "content-type": "application/json"}
            return Response(_compress_blanks(rule.inflates_to), response.status_code, headers)
        case "nested":
            return _json_response(b"[" * rule.depth + b"]" * rule.depth, response.status_code)
        case "odd_number":
            odd = json.dumps(_mark_numbers(json.loads(bytes(response.body)))).replace(f'"{_MARK}"', rule.number)
            return _json_response(odd.encode(), response.status_code)
        case "untimed":
            untimed = _without_times(json.loads(bytes(response.body)))
            return _json_response(json.dumps(untimed).encode(), response.status_code)
        case "wrapped":
            wrapped = json.dumps({rule.wrapper: json.loads(bytes(response.body))})
            return _json_response(wrapped.encode(), response.status_code)
    return None


def build_key_error(quoted: str) -> Response:
    """Return the error of a server that quotes what it was sent, spelled in its own way.

    Args:
        quoted: The text between the quotes of the JSON string, escapes included.
    """
    error = f'"type": "authentication_error", "code": "invalid_api_key", "message": "wrong key: {quoted}"'
    return _json_response(f'{{"error": {{{error}}}}}'.encode(), 401, {"x-request-id": f"req {quoted}"})


def _build_gateway_response(rule: FaultRule) -> Response:
    status = rule.foreign_status
    headers = {"location": "https://login.example/"} if status in (301, 302, 303, 307, 308) else {}
    match rule.foreign:
        case "html":
            page = f"<html><head><title>{status}</title></head><body><center>nginx</center></body></html>"
            return Response(page, status, headers, "text/html")
        case "json":
            return _json_response(b'{"message": "Forbidden"}', status, headers)
        case "problem":
            problem = {
                "type": "https://gateway.example/1020",
                "title": "Access denied",
                "status": status,
                "detail": "no",
            }
            return _json_response(json.dumps(problem).encode(), status, headers)
        case "text":
            return Response("upstream connect error", status, headers, "text/plain")
        case "empty":
            return Response(b"", status, headers)


def _json_response(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")


def _without_times(document: Any) -> Any:
    """Return a JSON document without the times of creation."""
    if isinstance(document, list):
        return [_without_times(item) for item in document]
    if isinstance(document, dict):
        return {name: _without_times(value) for name, value in document.items() if name not in CREATED}
    return document


def _mark_numbers(document: Any) -> Any:
    """Return a JSON document with a mark in place of each number."""
    match document:
        case bool():
            return document
        case int() | float():
            return _MARK
        case list():
            return [_mark_numbers(item) for item in document]
        case dict():
            return {name: _mark_numbers(item) for name, item in document.items()}
    return document


@lru_cache(maxsize=2)
def _compress_blanks(size: int) -> bytes:
    """Return a gzip body that inflates to `size` blanks."""
    # In blocks: the inflated body, 1.5 GB by default, must never exist in this process.
    packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    block = b" " * _BLOCK
    packed = [packer.compress(block[: min(_BLOCK, size - start)]) for start in range(0, size, _BLOCK)]
    return b"".join([*packed, packer.flush()])
