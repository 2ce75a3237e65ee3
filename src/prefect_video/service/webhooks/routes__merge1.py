"""Reading bodies of strangers: no further than a limit."""

from __future__ import annotations

from starlette.requests import Request


async def read_body(request: Request, limit: int) -> bytes | None:
    """The raw body; None as soon as it is larger than the limit."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
