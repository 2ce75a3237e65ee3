"""Reference images as URLs, for providers that accept no files."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from pathlib import Path
from typing import Final

from prefect_video.errors import RequestRejected
from prefect_video.shots import Shot

MAX_BYTES: Final = 10 * 2**20


async def reference_urls(shot: Shot, *, provider: str) -> list[str]:
    """Return the references of a shot as URLs; a local file becomes a `data:` URL.

    Raises:
        RequestRejected: A file cannot be read or is too large; nothing was sent.
    """
    return [await asyncio.to_thread(_to_url, reference, shot, provider) for reference in shot.references]


def _to_url(reference: str, shot: Shot, provider: str) -> str:
    if reference.startswith(("https://", "http://", "data:")):
        return reference
    path = Path(reference)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise RequestRejected(
            f"shot {shot.id!r}: reference {reference} cannot be read ({error.strerror}); nothing was sent",
            provider=provider,
        ) from error
    if size > MAX_BYTES:
        raise RequestRejected(
            f"shot {shot.id!r}: reference {reference} has {size:,} bytes; {provider} is sent at most"
            f" {MAX_BYTES:,}: make it smaller; nothing was sent",
            provider=provider,
        )
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
