"""Publication of a checked video: thumbnail, then sidecar, then the video itself.

In that order, because readers look for videos: a reader that sees an MP4 sees it whole and finds its sidecar. A file
that is damaged already is replaced in one step; one that is whole and another video is removed first, so that it is
never seen beside the sidecar of the new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset, ContentCredentials
from prefect_video.downloads import Downloaded, Media
from prefect_video.errors import StoreError
from prefect_video.generations import Cost
from prefect_video.shots import Shot
from prefect_video.storage.base import NewFile, SourceChanged, Store, validate_name
from prefect_video.storage.registry import copy_between, exists_anywhere, fetch_anywhere, read_sha256, sizes_anywhere

_log = logging.getLogger(__name__)

_SIDECAR_NAME: Final = re.compile(r"\.(?P<digest>[0-9a-f]{10})\.(?P<job>[^.]{1,6})\.json$")
_FINGERPRINT: Final = re.compile(r"^(?:v\d+:)?[0-9a-f]{10,}$")
_COST: Final[TypeAdapter[Decimal | None]] = TypeAdapter(Cost)
DIGEST_LENGTH: Final = 10
"""Hex digits of the fingerprint in a file's name."""
JOB_LENGTH: Final = 6
"""Last characters of the job's id in a file's name."""


class LedgerReference(BaseModel):
    """Reference from a sidecar to the job of its video, complete enough to restore a job that the ledger has lost.

    Attributes:
        id: Identity of the ledger.
        job: Id of the job.
        project: Project of the job; a copy in another project's folder belongs to the same job.
        environment: As in the job.
        account: As in the job.
        credentials: As in the job: a name, never a key.
        key_fingerprint: As in the job: by which the key is told from others, and not found out.
        shot: As in the job.
        reserved_usd: The reservation; it counts as spent where the provider has not reported the cost.
        reserved_at: Time of the reservation; monthly budgets go by it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    job: str
    project: str
    environment: str
    account: str
    credentials: str
    key_fingerprint: str | None = None
    shot: Shot
    reserved_usd: Cost = None
    reserved_at: AwareDatetime


@dataclass(frozen=True)
class Sidecar:
    """Content of a sidecar.

    Attributes:
        asset: The stored video.
        ledger: The job that paid for it; None in sidecars of versions that did not record it.
    """

    asset: Asset
    ledger: LedgerReference | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """The provider's charge in USD; None where it is unknown, or an amount that no video can cost."""
        return _COST.validate_python(self.asset.cost_usd)


@dataclass(frozen=True)
class SidecarName:
    """Parts of a sidecar's file name, known without reading the file.

    Attributes:
        digest: First digits of the fingerprint.
        job: Last characters of the job's id.
    """

    digest: str
    job: str

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """Parse a file's URI; return None if it is not that of a sidecar."""
        match = _SIDECAR_NAME.search(uri)
        return cls(match["digest"], match["job"]) if match else None

    @classmethod
    def of(cls, fingerprint: str, job_id: str) -> Self:
        """Return the name that the sidecar of a job has."""
        return cls(fingerprint_digest(fingerprint), job_id[-JOB_LENGTH:])


def fingerprint_digest(fingerprint: str) -> str:
    """Return the digits of a fingerprint that are part of a file's name."""
    return fingerprint.rpartition(":")[2][:DIGEST_LENGTH]


def sidecar_path(video: PurePosixPath) -> PurePosixPath:
    """Return the path of a video's sidecar."""
    return video.with_suffix(".json")


def thumbnail_path(video: PurePosixPath) -> PurePosixPath:
    """Return the path of a video's thumbnail."""
    return video.with_suffix(".jpg")


def write_sidecar(asset: Asset, ledger: LedgerReference | None = None) -> bytes:
    """Return a sidecar's content: the asset and its ledger reference as indented UTF-8 JSON with sorted keys."""
    record = asset.model_dump(mode="json")
    if ledger is not None:
        record["ledger"] = ledger.model_dump(mode="json", exclude_none=True)
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_sidecar(content: bytes) -> Asset | None:
    """Return the asset that a sidecar describes; None if it is not a sidecar of this package."""
    try:
        return Asset.model_validate_json(content)
    except ValidationError:
        return None


def parse_sidecar(content: bytes) -> Sidecar | None:
    """Parse a sidecar; return None if it is not one of this package, or its ledger reference is not readable."""
    asset = read_sidecar(content)
    if asset is None:
        return None
    try:
        reference = json.loads(content).get("ledger")
        return Sidecar(asset, None if reference is None else LedgerReference.model_validate(reference))
    except (ValidationError, RecursionError):
        return None


class AssetDraft(BaseModel):
    """Record of a video before it is stored: an asset without the properties that storing adds.

    Attributes:
        project: Name of the project, and of its folder.
        shot_id: Id of the shot.
        take: Number of the take, from 1.
        fingerprint: The prompt hash, `v1:<hex digits>`.
        prompt: The prompt.
        model: Model that generated the video.
        provider: Provider that generated the video.
        generation_id: The provider's id of the generation.
        cost_usd: Cost in USD, where known.
        origin: `generated`, or made `by hand`.
        job_id: Id of the job; its last six characters distinguish two generations of one shot.
        ledger: Reference to the job, for the sidecar.
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
    origin: Literal["generated", "by hand"] = "generated"
    job_id: str = Field(min_length=1)
    ledger: LedgerReference | None = None

    @property
    def path(self) -> PurePosixPath:
        """Path of the video in the store: `{project}/{shot_id}[.take{n}].{fingerprint}.{job}.mp4`.

        Raises:
            InvalidInput: A name cannot be part of a path.
        """
        take = f".take{self.take}" if self.take > 1 else ""
        digest = fingerprint_digest(self.fingerprint)
        name = f"{self.shot_id}{take}.{digest}.{self.job_id[-JOB_LENGTH:]}.mp4"
        # Each part is validated on its own: once joined, a separator inside a name would pass as a folder.
        return PurePosixPath(validate_name(self.project)) / validate_name(name)


async def publish_video(
    store: Store, video: Downloaded, media: Media, *, draft: AssetDraft, credentials: ContentCredentials | None = None
) -> Asset:
    """Store a downloaded and checked video with its thumbnail and sidecar.

    Publishing the same content again changes nothing and returns the existing asset: so a restarted process finds the
    work of one that died between publishing and recording.

    Args:
        store: The store.
        video: The downloaded file.
        media: Its measured properties.
        draft: The rest of the asset's record.
        credentials: Its C2PA manifest; None where none was looked for.

    Raises:
        StoreError: The store cannot be written, or the file is not the one that was checked.
        InvalidInput: A name of the draft cannot be part of a path.
    """
    relative = draft.path
    place = await _Place.look_up(store, relative)
    if (stored := place.find(draft, video.sha256)) is not None:
        _log.debug("already stored: %s", stored.uri)
        return stored
    is_replacing = await place.make_ready()
    asset = _build_asset(store, draft, video, media).model_copy(update={"content_credentials": credentials})
    files = [_new_sidecar(asset, draft.ledger, relative), NewFile(video.path, relative, "video/mp4", video.sha256)]
    if media.thumbnail is not None:
        files.insert(0, NewFile(media.thumbnail, thumbnail_path(relative), "image/jpeg"))
    try:
        await store.publish_all(files)
    except StoreError as error:
        if isinstance(error, SourceChanged):
            # Else the next attempt would take it for the finished download.
            video.path.unlink(missing_ok=True)
        # A damaged video is better than none.
        if not is_replacing:
            await _delete_parts(store, relative)
        raise
    _log.debug("stored %s: %d bytes", asset.uri, asset.bytes)
    return asset


async def copy_video(store: Store, asset: Asset, *, draft: AssetDraft) -> Asset:
    """Store a copy of a stored video under another draft's name, with a sidecar of its own.

    A file that is at that name already is replaced only after the original was fetched and compared with it: under two
    addresses of one store it may be the original.

    Args:
        store: The store of the copy.
        asset: The original, in any store.
        draft: The copy's record.

    Raises:
        StoreError: A store cannot be read or written, or the copy is not as long as the original.
        InvalidInput: A name of the draft cannot be part of a path.
    """
    place = await _Place.look_up(store, draft.path)
    if (stored := place.find(draft, asset.sha256)) is not None:
        return stored
    target, size = store.uri(draft.path), place.size
    # A process that died before it recorded the copy has left it: only the sidecar is written again.
    if size == asset.bytes and await read_sha256(store, target) == asset.sha256:
        return await _publish_copied_sidecar(store, asset, draft)
    if size is None:
        # Nothing is in its place, so that the store may copy by itself, without a transfer through this machine.
        await _require_original(store, asset)
        copied = await _publish_copied_sidecar(store, asset, draft)
        await copy_between(store, asset.uri, draft.path)
    else:
        with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
            spool = await _fetch_original(store, asset, Path(folder))
            # Looked up again: fetching the original may have taken minutes.
            await (await _Place.look_up(store, draft.path)).make_ready()
            copied = await _publish_copied_sidecar(store, asset, draft)
            await store.publish(spool, draft.path, content_type="video/mp4", sha256=asset.sha256)
    if (size := await store.size(target)) != asset.bytes:
        # A short copy must not stay: the sidecar beside it describes a whole video.
        await store.delete(target)
        raise StoreError(f"copy of {asset.uri}: {size} bytes came instead of {asset.bytes}; it was removed")
    _log.info("copied %s to %s", asset.uri, target)
    return copied


async def _require_original(store: Store, asset: Asset) -> None:
    """Raise StoreError if the original of a copy is missing, or is not as long as its record says."""
    size = (await sizes_anywhere(store, [asset.uri])).get(asset.uri)
    if size != asset.bytes:
        found = "missing" if size is None else f"{size} bytes long instead of {asset.bytes}"
        raise StoreError(f"copy of {asset.uri}: the original is {found}; nothing was copied or removed")


async def _fetch_original(store: Store, asset: Asset, folder: Path) -> Path:
    """Fetch the original of a copy to a local file, and compare its content with its record."""
    await _require_original(store, asset)
    spool = folder / "original.mp4"
    await fetch_anywhere(store, asset.uri, spool)
    if await run_in_thread(file_sha256, spool) != asset.sha256:
        raise StoreError(f"copy of {asset.uri}: the original is damaged; nothing was copied or removed")
    return spool


async def _publish_copied_sidecar(store: Store, asset: Asset, draft: AssetDraft) -> Asset:
    """Publish thumbnail and sidecar of a copy; return the copy's asset."""
    relative, thumbnail = draft.path, None
    if asset.thumbnail_uri is not None and await exists_anywhere(store, [asset.thumbnail_uri]):
        thumbnail = await copy_between(store, asset.thumbnail_uri, thumbnail_path(relative))
    update = {**draft.model_dump(exclude={"job_id", "ledger"}), "created_at": datetime.now(UTC)}
    copied = place_asset(store, asset.model_copy(update=update), relative, thumbnail)
    await publish_sidecar(store, copied, draft.ledger, relative)
    return copied


def place_asset(store: Store, asset: Asset, relative: PurePosixPath, thumbnail_uri: str | None) -> Asset:
    """Return an asset with the URIs that its files have at a path of a store."""
    places = {"uri": store.uri(relative), "sidecar_uri": store.uri(sidecar_path(relative))}
    return asset.model_copy(update={**places, "thumbnail_uri": thumbnail_uri})


@dataclass(frozen=True)
class _Place:
    """Place of a video in a store, and what is there.

    Attributes:
        store: The store.
        relative: Path of the video.
        size: Size of the file that is there; None for none.
        whole: The asset that its sidecar describes, if the file has that size and content; None for a damaged one.
    """

    store: Store
    relative: PurePosixPath
    size: int | None
    whole: Asset | None

    @classmethod
    async def look_up(cls, store: Store, relative: PurePosixPath) -> Self:
        """Read what is at a place."""
        size = await store.size(store.uri(relative))
        whole = None if size is None else await _find_whole(store, relative, size)
        return cls(store, relative, size, whole)

    def find(self, draft: AssetDraft, sha256: str) -> Asset | None:
        """Return the asset that is there, if it is whole, the draft's, and has this content; otherwise None.

        The sidecar may name another address: a store may have moved, or be reached in another way, since it was
        written.
        """
        asset = self.whole
        if asset is None or asset.sha256 != sha256 or not _is_of_draft(asset, draft):
            return None
        thumbnail_uri = asset.thumbnail_uri and self.store.uri(thumbnail_path(self.relative))
        return place_asset(self.store, asset, self.relative, thumbnail_uri)

    async def make_ready(self) -> bool:
        """Make ready for a video with other content; return True where a damaged one stays until it is replaced.

        A whole one is removed: it must not be visible beside the sidecar of the new one.
        """
        if self.whole is not None:
            await self.store.delete(self.store.uri(self.relative))
        return self.size is not None and self.whole is None


async def _find_whole(store: Store, relative: PurePosixPath, size: int) -> Asset | None:
    """Return the asset that a video's sidecar describes, if the video has that size and content."""
    try:
        asset = read_sidecar(await store.read_bytes(store.uri(sidecar_path(relative))))
    except FileNotFoundError:
        return None
    # The size first: to read a whole video for its digest may take minutes.
    if asset is None or asset.bytes != size:
        return None
    return asset if await read_sha256(store, store.uri(relative)) == asset.sha256 else None


def _is_of_draft(asset: Asset, draft: AssetDraft) -> bool:
    return (asset.project, asset.shot_id, asset.take, asset.fingerprint) == (
        draft.project,
        draft.shot_id,
        draft.take,
        draft.fingerprint,
    )


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _delete_parts(store: Store, relative: PurePosixPath) -> None:
    """Delete the files around a video whose publication failed, as far as the store allows."""
    try:
        # The video first, because it may have been published in spite of the error.
        for path in (relative, sidecar_path(relative), thumbnail_path(relative)):
            await store.delete(store.uri(path))
    except StoreError as error:
        _log.warning("the thumbnail or sidecar of %s stays in the store without its video: %s", relative, error)


def _new_sidecar(asset: Asset, ledger: LedgerReference | None, relative: PurePosixPath) -> NewFile:
    """Return the sidecar of a video at a path, as a file to be published."""
    return NewFile(write_sidecar(asset, ledger), sidecar_path(relative), "application/json")


async def publish_sidecar(store: Store, asset: Asset, ledger: LedgerReference | None, relative: PurePosixPath) -> str:
    """Publish the sidecar of a video.

    Args:
        store: The store.
        asset: The video.
        ledger: Reference to its job.
        relative: Path of the video in the store.

    Returns:
        The sidecar's URI.
    """
    (uri,) = await store.publish_all([_new_sidecar(asset, ledger, relative)])
    return uri


def _build_asset(store: Store, draft: AssetDraft, video: Downloaded, media: Media) -> Asset:
    return Asset(
        uri=store.uri(draft.path),
        thumbnail_uri=None if media.thumbnail is None else store.uri(thumbnail_path(draft.path)),
        sidecar_uri=store.uri(sidecar_path(draft.path)),
        sha256=video.sha256,
        bytes=video.bytes,
        duration_seconds=media.duration_seconds,
        width=media.width,
        height=media.height,
        created_at=datetime.now(UTC),
        notes=video.notes,
        quality=video.quality,
        **draft.model_dump(exclude={"job_id", "ledger"}),
    )
