"""Publishing a checked video: thumbnail, then sidecar, then the video itself.

In that order, because readers look for videos: whoever sees an MP4 sees it whole and finds its sidecar.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefect_video._shield import run_in_thread
from prefect_video.assets import Asset
from prefect_video.downloads import Downloaded, Media, thumbnail
from prefect_video.errors import InvalidVideo, StoreError
from prefect_video.generations import Cost
from prefect_video.shots import Shot
from prefect_video.storage.base import Store, validate_name
from prefect_video.storage.registry import copy_between, exists_anywhere

_NAME: Final = re.compile(r"\.(?P<digest>[0-9a-f]{10})\.(?P<job>[^.]{1,6})\.json$")
_COST: Final[TypeAdapter[Decimal | None]] = TypeAdapter(Cost)
DIGEST_LENGTH: Final = 10
"""Hex digits of the fingerprint in a file's name."""
JOB_LENGTH: Final = 6
"""Last characters of the job's id in a file's name."""


class LedgerReference(BaseModel):
    """The row that a video belongs to, with what a ledger that has lost the row needs to make it again.

    Attributes:
        id: The ledger's identity.
        job: The row's id.
        project: The row's project; a copy in another project's folder belongs to the same row.
        environment: As in the row.
        account: As in the row.
        credentials: As in the row: a name, never a key.
        shot: As in the row.
        reserved_usd: What was reserved; counts as spent where the provider has not told the cost.
        reserved_at: When the row was made; budgets of a month go by it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    job: str
    project: str
    environment: str
    account: str
    credentials: str
    shot: Shot
    reserved_usd: Cost = None
    reserved_at: AwareDatetime


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's content.

    Attributes:
        asset: The stored video.
        ledger: Which ledger paid for it; None where it was written by a version that did not say.
    """

    asset: Asset
    ledger: LedgerReference | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """What the provider charged; None where it did not say, or the sidecar says what no video can cost."""
        return _COST.validate_python(self.asset.cost_usd)


@dataclass(frozen=True)
class SidecarName:
    """What the name of a sidecar tells without reading it.

    Attributes:
        digest: The first digits of the fingerprint.
        job: The last characters of the job's id.
    """

    digest: str
    job: str

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """Read a file's URI; None when it is not that of a sidecar."""
        found = _NAME.search(uri)
        return cls(found["digest"], found["job"]) if found else None

    @classmethod
    def of(cls, fingerprint: str, job_id: str) -> Self:
        """Name what a row's files are called."""
        return cls(fingerprint_digest(fingerprint), job_id[-JOB_LENGTH:])


def fingerprint_digest(fingerprint: str) -> str:
    """Cut a fingerprint to the digits that a file's name holds."""
    return fingerprint.rpartition(":")[2][:DIGEST_LENGTH]


def sidecar_path(video: PurePosixPath) -> PurePosixPath:
    """Where the sidecar of a video lies."""
    return video.with_suffix(".json")


def thumbnail_path(video: PurePosixPath) -> PurePosixPath:
    """Where the still picture of a video lies."""
    return video.with_suffix(".jpg")


def write_sidecar(asset: Asset, ledger: LedgerReference | None = None) -> bytes:
    """The sidecar's content: the asset's record, and its ledger's, as indented UTF-8 JSON with sorted keys."""
    record = asset.model_dump(mode="json")
    if ledger is not None:
        record["ledger"] = ledger.model_dump(mode="json", exclude_none=True)
    return (json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_sidecar(content: bytes) -> Asset | None:
    """The asset that a sidecar describes; None when it is not one of ours."""
    try:
        return Asset.model_validate_json(content)
    except ValidationError:
        return None


def parse_sidecar(content: bytes) -> Sidecar | None:
    """Read a whole sidecar; None when it is not one of ours, or what it says of its ledger cannot be read."""
    asset = read_sidecar(content)
    if asset is None:
        return None
    try:
        reference = json.loads(content).get("ledger")
        return Sidecar(asset, None if reference is None else LedgerReference.model_validate(reference))
    except (ValidationError, RecursionError):
        return None


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
        job_id: Id of the ledger's row; its last six characters keep two generations of one shot apart.
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
    job_id: str = Field(min_length=1)
    ledger: LedgerReference | None = None

    @property
    def path(self) -> PurePosixPath:
        """Where the video goes: `{project}/{shot_id}[.take{n}].{fingerprint}.{job}.mp4`.

        Raises:
            InvalidInput: A name is not fit to be part of a path.
        """
        take = f".take{self.take}" if self.take > 1 else ""
        digest = fingerprint_digest(self.fingerprint)
        name = f"{self.shot_id}{take}.{digest}.{self.job_id[-JOB_LENGTH:]}.mp4"
        # Each part is checked by itself: joined first, a separator inside a name would pass as a folder.
        return PurePosixPath(validate_name(self.project)) / validate_name(name)


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
            **draft.model_dump(exclude={"job_id", "ledger"}),
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
    except InvalidVideo as error:
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
        **draft.model_dump(exclude={"job_id", "ledger"}),
    )
