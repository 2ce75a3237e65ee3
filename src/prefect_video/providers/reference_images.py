"""Frames and reference images as URLs, for providers that accept no files, and their comparison with an echo."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from prefect_video.downloads import IMAGE_LIMIT_BYTES, parse_image
from prefect_video.errors import InvalidInput, RequestRejected
from prefect_video.providers.matching import Match
from prefect_video.shots import Shot

DIGEST_PREFIX: Final = "sha256:"
"""Beginning of an echo that names an image by the digest of its content."""


async def image_urls(shot: Shot, *, provider: str) -> dict[str, list[str]]:
    """Return the images of a shot by field, as URLs; a local file becomes a `data:` URL.

    Raises:
        RequestRejected: A file cannot be read or is too large; nothing was sent.
    """
    return {
        field: [await asyncio.to_thread(_to_url, image, shot, field, provider) for image in images]
        for field, images in shot.images.items()
    }


def match_images(shot: Shot, echoed: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Match:
    """Compare the images of a shot with a server's echo of them.

    Args:
        shot: The shot, its images as local files.
        echoed: Parameters that the server reports.
        names: The server's names of the fields, where they are not ours.

    Returns:
        `SAME` where every image is echoed by its content. An image that is not echoed, or by an address of the
        server's own, may be another one, so that the generation is a possible match.
    """
    for field, images in shot.images.items():
        echo = echoed.get((names or {}).get(field, field))
        echoes = echo if isinstance(echo, list) else [echo]
        if len(echoes) != len(images) or not all(map(_is_same_image, echoes, images)):
            return Match.POSSIBLE
    return Match.SAME


def _is_same_image(echo: Any, image: str) -> bool:
    if not isinstance(echo, str):
        return False
    if echo.startswith("data:"):
        try:
            digest = hashlib.sha256(base64.b64decode(echo.partition(",")[2], validate=True)).hexdigest()
        except ValueError:
            return False
    else:
        digest = echo.removeprefix(DIGEST_PREFIX)
    try:
        return hashlib.sha256(Path(image).read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _to_url(image: str, shot: Shot, field: str, provider: str) -> str:
    if image.startswith(("https://", "http://", "data:")):
        return image
    path = Path(image)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= IMAGE_LIMIT_BYTES else b""
    except OSError as error:
        raise RequestRejected(
            f"shot {shot.id!r}: {field}: {image} cannot be read ({error.strerror}); nothing was sent",
            provider=provider,
        ) from error
    if size > IMAGE_LIMIT_BYTES:
        raise RequestRejected(
            f"shot {shot.id!r}: {field}: {image} has {size:,} bytes; {provider} is sent at most"
            f" {IMAGE_LIMIT_BYTES:,}: make it smaller; nothing was sent",
            provider=provider,
        )
    return f"data:{find_media_type(content, path.name)};base64,{base64.b64encode(content).decode()}"


def find_media_type(content: bytes, name: str) -> str:
    """Return the media type of an image by its content, else by its name."""
    try:
        return parse_image(content, name).media_type
    except InvalidInput:
        return mimetypes.guess_type(name)[0] or "application/octet-stream"
