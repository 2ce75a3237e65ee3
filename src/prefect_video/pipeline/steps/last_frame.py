"""Last frame: the picture with which a stored video ends, as a file that another shot begins with."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import uuid
from pathlib import Path

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset
from prefect_video.downloads import prepare_private_folder, read_last_frame
from prefect_video.errors import StoreError
from prefect_video.session import Session

logger = logging.getLogger(__name__)


def frame_digest(asset: Asset) -> str:
    """Return what a shot's fingerprint says of a video's last frame: it is known by the bytes of the whole video.

    Not by those of the picture: another version of the decoder or of the PNG encoder may write others, and the shot
    would be bought again.
    """
    return hashlib.sha256(f"last frame of {asset.sha256}".encode()).hexdigest()


def frame_path(session: Session, asset: Asset | None) -> Path:
    """Return the place of a video's last frame in the spool; that of no video where there is none yet."""
    return session.settings.spool.absolute() / "frames" / f"{asset.sha256 if asset else 'pending'}.png"


async def make_last_frame(session: Session, asset: Asset) -> Path:
    """Write the last frame of a stored video to the spool, as a PNG without loss, unless it is there.

    Raises:
        StoreError: The video cannot be read, or is not the one that was stored.
        InvalidVideo: It cannot be decoded.
    """
    path = frame_path(session, asset)
    if path.is_file():
        return path
    await asyncio.to_thread(prepare_private_folder, session.settings.spool)
    await asyncio.to_thread(prepare_private_folder, path.parent)
    video = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.mp4")
    try:
        async with session.download_slots:
            await session.store.fetch(asset.uri, video)
            await run_in_thread(_write_frame, video, asset, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            video.unlink()
    logger.debug("%s/%s: its last frame is %s", asset.project, asset.shot_id, path)
    return path


def _write_frame(video: Path, asset: Asset, path: Path) -> None:
    with video.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != asset.sha256:
        raise StoreError(f"{asset.uri}: its content is not that of the video that was stored; see prefect-video verify")
    # Written aside and renamed: other shots of this process, and other processes, may be reading it.
    draft = video.with_suffix(".png")
    draft.write_bytes(read_last_frame(video))
    os.replace(draft, path)
