"""Reference images as URLs, for providers that take nothing else."""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from pathlib import Path
from typing import Final

from prefect_video.errors import RequestRejected
from prefect_video.shots import Shot

LARGEST_BYTES: Final = 10 * 2**20


async def reference_urls(shot: Shot, *, provider: str) -> list[str]:
    """The references of a shot as URLs; a local file goes along as a `data:` URL.

    Raises:
        RequestRejected: A file cannot be read or is too large; nothing was sent.
    """
    return [await asyncio.to_thread(_url, reference, shot, provider) for reference in shot.references]


def _url(reference: str, shot: Shot, provider: str) -> str:
    if reference.startswith(("https://", "http://", "data:")):
        return reference
    path = Path(reference)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_BYTES else b""
    except OSError as error:
        raise RequestRejected(
            f"shot {shot.id!r}: reference {reference} cannot be read ({error.strerror}); nothing was sent",
            provider=provider,
        ) from error
    if size > LARGEST_BYTES:
        raise RequestRejected(
            f"shot {shot.id!r}: reference {reference} has {size:,} bytes; {provider} is sent at most"
            f" {LARGEST_BYTES:,}: make it smaller; nothing was sent",
            provider=provider,
        )
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
