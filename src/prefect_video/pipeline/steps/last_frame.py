"""Last frame: the picture with which a stored video ends, for a shot that continues it."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from pathlib import Path
from typing import Final

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset
from prefect_video.downloads import Image, parse_image, prepare_private_folder, read_last_frame
from prefect_video.errors import StoreError
from prefect_video.session import Session

_SCHEME: Final = "last-frame:"


def frame_address(asset: Asset | None) -> str:
    """Return the address of a video's last frame among a project's images; that of no frame where there is no video."""
    return f"{_SCHEME}{asset.sha256 if asset else 'pending'}"


def is_frame_address(image: str) -> bool:
    """Tell whether an image is the last frame of a stored video."""
    return image.startswith(_SCHEME)


async def read_frame(session: Session, asset: Asset) -> Image:
    """Decode the last frame of a stored video as a PNG, without loss.

    Raises:
        StoreError: The video cannot be read, or is not the one that was stored.
        InvalidVideo: It cannot be decoded.
    """
    spool = session.settings.spool
    await asyncio.to_thread(prepare_private_folder, spool)
    with tempfile.TemporaryDirectory(prefix=".frame-", dir=spool) as folder:
        video = Path(folder) / "video.mp4"
        async with session.download_slots:
            await session.store.fetch(asset.uri, video)
            return await run_in_thread(_read_frame, video, asset)


def _read_frame(video: Path, asset: Asset) -> Image:
    with video.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != asset.sha256:
        raise StoreError(f"{asset.uri}: its content is not that of the video that was stored; see prefect-video verify")
    return parse_image(read_last_frame(video), asset.uri)
