"""Images that shots begin with, end with or refer to: checked by their content, and fetched where they are URLs."""

from __future__ import annotations

import asyncio
import hashlib
import io
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from prefect_video.downloads.http_responses import open_following_redirects
from prefect_video.downloads.url_safety import LinkPolicy, origin, redact
from prefect_video.errors import DownloadError, InvalidInput

IMAGE_LIMIT_BYTES: Final = 10 * 2**20
"""Largest image; most providers take it within the request, where it grows by a third."""
IMAGE_LIMIT_PIXELS: Final = 100_000_000

_FORMATS: Final = {"PNG": (".png", "image/png"), "JPEG": (".jpg", "image/jpeg"), "WEBP": (".webp", "image/webp")}
_TRIES: Final = 3
_BACKOFF_SECONDS: Final = 0.5
_FETCH_SECONDS: Final = 60.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Image:
    """Image with its content.

    Attributes:
        content: The bytes of the file.
        suffix: Extension of its format, such as `.png`.
        media_type: Media type of its format, such as `image/png`.
        sha256: Hex digest of the content.
    """

    content: bytes = field(repr=False)
    suffix: str
    media_type: str
    sha256: str


def read_image(path: Path) -> Image:
    """Read an image file.

    Raises:
        InvalidInput: It cannot be read, is too large, or is not a PNG, JPEG or WebP.
    """
    try:
        with path.open("rb") as file:
            content = file.read(IMAGE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > IMAGE_LIMIT_BYTES:
        raise InvalidInput(f"{path} has over {IMAGE_LIMIT_BYTES:,} bytes: make it smaller")
    return parse_image(content, str(path))


def parse_image(content: bytes, name: str) -> Image:
    """Check the content of an image by its header, without decoding it.

    Args:
        content: The bytes of the file.
        name: Name of the file, for messages.

    Raises:
        InvalidInput: It is not a PNG, JPEG or WebP, or has too many pixels.
    """
    # Imported late: Pillow would make the import of the package slow.
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(io.BytesIO(content), formats=tuple(_FORMATS)) as picture:
            pixels, kind = picture.width * picture.height, picture.format or ""
    except PillowImage.DecompressionBombError:
        pixels, kind = IMAGE_LIMIT_PIXELS + 1, "PNG"
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInput(f"{name} is not an image that providers take: give a PNG, JPEG or WebP") from error
    if pixels > IMAGE_LIMIT_PIXELS:
        raise InvalidInput(f"{name} has over {IMAGE_LIMIT_PIXELS:,} pixels: make it smaller")
    suffix, media_type = _FORMATS[kind]
    return Image(content, suffix, media_type, hashlib.sha256(content).hexdigest())


async def fetch_image(url: str, *, client: httpx.AsyncClient, policy: LinkPolicy) -> Image:
    """Fetch an image from its URL, which is as little trusted as a provider's link.

    Args:
        url: An https URL, or an http URL on this machine.
        client: A client from `open_download_client`.
        policy: The addresses that the URL and its redirects may lead to.

    Raises:
        InvalidInput: It may not be fetched, cannot be fetched, is too large, or is no image that providers take.
    """
    where = redact(url)
    if not url.lower().startswith("https://") and not _is_on_this_machine(url):
        raise InvalidInput(f"{where} is not https: anyone on the way could exchange the image")
    for number in range(_TRIES):
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                return await asyncio.to_thread(parse_image, await _read(url, client, policy), where)
        except (DownloadError, httpx.HTTPError, TimeoutError) as error:
            is_last = number == _TRIES - 1 or (isinstance(error, DownloadError) and not error.retryable)
            if is_last:
                # Not chained: httpx's errors quote the link, which may be a secret.
                reason = str(error) if isinstance(error, DownloadError) else type(error).__name__
                raise InvalidInput(f"{where} cannot be fetched: {reason}") from None
        await asyncio.sleep(_BACKOFF_SECONDS * 2**number)
    raise AssertionError("the last try returns or raises")


async def _read(url: str, client: httpx.AsyncClient, policy: LinkPolicy) -> bytes:
    content = bytearray()
    async with open_following_redirects(
        client, url, policy, headers={"Accept": "image/*"}, secret_headers={}, secret_origin=origin(url)
    ) as response:
        if response.status_code != 200:
            error = DownloadError(f"the host answered HTTP {response.status_code}")
            error.retryable = response.status_code in _TRANSIENT
            raise error
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > IMAGE_LIMIT_BYTES:
                raise DownloadError(f"it has over {IMAGE_LIMIT_BYTES:,} bytes")
    return bytes(content)


def _is_on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
