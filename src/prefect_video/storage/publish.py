"""Publishing a checked video: thumbnail, then sidecar, then the video itself.

In that order, because readers look for videos: whoever sees an MP4 sees it whole and finds its sidecar.
"""

from __future__ import annotations

import logging
import re
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded
from prefect_video.errors import NotPlayable, StoreError
from prefect_video.media import Media, thumbnail
from prefect_video.storage.base import Store, plain_name
from prefect_video.storage.registry import copy_between, exists_anywhere
from prefect_video.storage.sidecars import (
    JOB_LENGTH,
    LedgerReference,
    fingerprint_digest,
    read_sidecar,
    sidecar_path,
    thumbnail_path,
    write_sidecar,
)
from prefect_video.unbroken import run_in_thread

_log = logging.getLogger(__name__)

_FINGERPRINT: Final = re.compile(r"^(?:v\d+:)?[0-9a-f]{10,}$")


class AssetDraft(BaseModel):
    """What is known of a video before it is stored.

    Attributes:
        project: Name of the project; the folder.
        shot_id: Id of the shot.
        take: 1 for the first take.
        fingerprint: The prompt hash, `v1:<hex digits>`.
        prompt: The prompt.
        model: The model that made it.
        provider: The provider that made it.
        generation_id: The provider's id of the generation.
        cost_usd: What it cost in USD, where known.
        entry_id: Id of the ledger's row; its last six characters keep two generations of one shot apart.
        ledger: The row, for the sidecar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    shot_id: str
    take: int = Field(default=1, ge=1)
    fingerprint: str = Field(pattern=_FINGERPRINT.pattern)
    prompt: str
    model: str
    provider: str
    generation_id: str
    cost_usd: Decimal | None = None
    entry_id: str = Field(min_length=1)
    ledger: LedgerReference | None = None

    @property
    def path(self) -> PurePosixPath:
        """Where the video goes: `{project}/{shot_id}[.take{n}].{fingerprint}.{entry}.mp4`.

        Raises:
            InvalidInput: A name is not fit to be part of a path.
        """
        take = f".take{self.take}" if self.take > 1 else ""
        digest = fingerprint_digest(self.fingerprint)
        name = f"{self.shot_id}{take}.{digest}.{self.entry_id[-JOB_LENGTH:]}.mp4"
        # Each part is checked by itself: joined first, a separator inside a name would pass as a folder.
        return PurePosixPath(plain_name(self.project)) / plain_name(name)


async def publish_video(store: Store, video: Downloaded, media: Media, *, draft: AssetDraft) -> Asset:
    """Stores a downloaded and checked video with its thumbnail and sidecar.

    Publishing the same content again changes nothing and returns the asset that is there: a process that died
    between publishing and recording finds its work.

    Raises:
        StoreError: The store cannot be written.
        InvalidInput: A name of the draft is not fit to be part of a path.
    """
    relative = draft.path
    if (stored := await _stored(store, relative, video.sha256)) is not None:
        _log.info("already stored: %s", stored.uri)
        return stored
    # A video that is there has another content: it must not be seen beside a sidecar that is not its own.
    await store.delete(store.uri(relative))
    with tempfile.TemporaryDirectory(prefix=".publish-", dir=video.path.parent) as folder:
        try:
            thumbnail_uri = await _publish_thumbnail(store, video.path, Path(folder), relative)
            asset = _asset(store, draft, video, media, thumbnail_uri)
            await publish_sidecar(store, asset, draft.ledger, Path(folder), relative)
            await store.publish(video.path, relative, content_type="video/mp4")
        except StoreError:
            await _clear(store, relative)
            raise
    _log.info("stored %s: %d bytes", asset.uri, asset.bytes)
    return asset


async def copy_video(store: Store, asset: Asset, *, draft: AssetDraft) -> Asset:
    """Stores a copy of a stored video under another draft's name, with a sidecar of its own.

    Raises:
        StoreError: A store cannot be read or written, or the copy is not as long as the original.
        InvalidInput: A name of the draft is not fit to be part of a path.
    """
    relative = draft.path
    if (stored := await _stored(store, relative, asset.sha256)) is not None:
        return stored
    await store.delete(store.uri(relative))
    thumbnail_uri = None
    if asset.thumbnail_uri is not None and await exists_anywhere(store, [asset.thumbnail_uri]):
        thumbnail_uri = await copy_between(store, asset.thumbnail_uri, thumbnail_path(relative))
    copied = asset.model_copy(
        update={
            **draft.model_dump(exclude={"entry_id", "ledger"}),
            "uri": store.uri(relative),
            "thumbnail_uri": thumbnail_uri,
            "sidecar_uri": store.uri(sidecar_path(relative)),
            "created_at": datetime.now(UTC),
        }
    )
    with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
        await publish_sidecar(store, copied, draft.ledger, Path(folder), relative)
    uri = await copy_between(store, asset.uri, relative)
    if (size := await store.size(uri)) != asset.bytes:
        await store.delete(uri)
        raise StoreError(f"copy of {asset.uri}: {size} bytes came instead of {asset.bytes}; it was removed")
    _log.info("copied %s to %s", asset.uri, uri)
    return copied


async def _stored(store: Store, relative: PurePosixPath, sha256: str) -> Asset | None:
    """The asset at a path, if it is whole, has its sidecar and has this content."""
    uri = store.uri(relative)
    size = await store.size(uri)
    if size is None:
        return None
    try:
        asset = read_sidecar(await store.read_bytes(store.uri(sidecar_path(relative))))
    except FileNotFoundError:
        return None
    if asset is None or asset.sha256 != sha256 or asset.bytes != size or asset.uri != uri:
        return None
    return asset


async def _clear(store: Store, relative: PurePosixPath) -> None:
    """Removes what was published of a video that was not; the video first, should it be there in spite of the error."""
    try:
        for path in (relative, sidecar_path(relative), thumbnail_path(relative)):
            await store.delete(store.uri(path))
    except StoreError as error:
        _log.info("what was published beside %s stays: %s", relative, error)


async def _publish_thumbnail(store: Store, video: Path, folder: Path, relative: PurePosixPath) -> str | None:
    still = folder / "thumbnail.jpg"
    try:
        await run_in_thread(thumbnail, video, still)
    except NotPlayable as error:
        # The video has passed its checks; a picture that cannot be made is no reason to lose it.
        _log.warning("no thumbnail for %s: %s", relative, error)
        return None
    return await store.publish(still, thumbnail_path(relative), content_type="image/jpeg")


async def publish_sidecar(
    store: Store, asset: Asset, ledger: LedgerReference | None, folder: Path, relative: PurePosixPath
) -> str:
    """Publish the sidecar of a video, by way of a local folder; return its URI."""
    record = folder / "sidecar.json"
    await run_in_thread(record.write_bytes, write_sidecar(asset, ledger))
    return await store.publish(record, sidecar_path(relative), content_type="application/json")


def _asset(store: Store, draft: AssetDraft, video: Downloaded, media: Media, thumbnail_uri: str | None) -> Asset:
    return Asset(
        uri=store.uri(draft.path),
        thumbnail_uri=thumbnail_uri,
        sidecar_uri=store.uri(sidecar_path(draft.path)),
        sha256=video.sha256,
        bytes=video.bytes,
        duration_seconds=media.duration_seconds,
        width=media.width,
        height=media.height,
        created_at=datetime.now(UTC),
        **draft.model_dump(exclude={"entry_id", "ledger"}),
    )
