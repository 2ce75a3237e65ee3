"""Provenance: a project's manifest against store and ledger, and the C2PA manifests of stored videos."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from prefect_video.assets import Asset, ContentCredentials
from prefect_video.downloads import read_content_credentials
from prefect_video.gallery import MANIFEST_NAME, TakeRecord, VideoFile, read_manifest
from prefect_video.ledger import Job, Ledger, State
from prefect_video.pipeline.steps.film_place import find_current_film
from prefect_video.pipeline.steps.store_check import describe_size
from prefect_video.storage import Store, read_sha256

_READS_AT_ONCE: Final = 8


class ManifestFlaw(BaseModel):
    """Line of a project's manifest that does not hold.

    Attributes:
        project: The project.
        path: Path of the video in the project's folder; that of the manifest where none of it can be read.
        detail: Description of the flaw.
        is_known: Whether the ledger knows the video, so that the manifest can be made again.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    path: str
    detail: str
    is_known: bool = True


class AssetCredentials(BaseModel):
    """C2PA manifest of a stored video.

    Attributes:
        project: The project.
        shot: Id of the shot, or `final cut`.
        uri: Address of the video.
        found: What was read.
        flaw: What is wrong; None where nothing is.
    """

    model_config = ConfigDict(frozen=True)

    project: str
    shot: str
    uri: str
    found: ContentCredentials
    flaw: str | None = None


async def check_manifest(ledger: Ledger, store: Store, project: str) -> list[ManifestFlaw]:
    """Compare the manifest in a project's folder with the ledger, and what the ledger does not know with the files.

    Raises:
        LedgerError: The ledger cannot be read.
        StoreError: The store cannot be read.
    """
    try:
        manifest = read_manifest(await store.read_bytes(f"{store.url}/{project}/{MANIFEST_NAME}"))
    except FileNotFoundError:
        return []
    if manifest is None:
        return [ManifestFlaw(project=project, path=MANIFEST_NAME, detail="the manifest cannot be read")]
    takes = [take for shot in manifest.shots for take in (*shot.takes, *shot.earlier) if take.video and take.video.path]
    jobs = {job.id: job for job in await ledger.jobs.get_many(take.job_id for take in takes if take.job_id)}
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def check(take: TakeRecord) -> ManifestFlaw | None:
        video = take.video
        assert video is not None
        assert video.path is not None
        job = jobs.get(take.job_id or "")
        detail = _compare_with_ledger(video, job) if job else None
        if job is None:
            async with slots:
                detail = await _compare_with_file(store, project, video, video.path)
        if detail is None:
            return None
        return ManifestFlaw(project=project, path=video.path, detail=detail, is_known=job is not None)

    return [flaw for flaw in await asyncio.gather(*map(check, takes)) if flaw]


async def read_stored_credentials(
    store: Store, uri: str, known: ContentCredentials | None
) -> ContentCredentials | None:
    """Read the C2PA manifest of a stored video or film anew; None where the reader is not installed.

    Args:
        store: The store.
        uri: Address of the file.
        known: What was read when it was stored.

    Raises:
        StoreError: The store cannot be read.
    """
    promised = known is not None and known.promised
    with tempfile.TemporaryDirectory(prefix="prefect-video-") as folder:
        copy = Path(folder) / "video.mp4"
        await store.fetch(uri, copy)
        return await asyncio.to_thread(read_content_credentials, copy, promised=promised)


def describe_credentials(asset: Asset, found: ContentCredentials) -> AssetCredentials:
    """Build the line of a report about a video's C2PA manifest."""
    return AssetCredentials(project=asset.project, shot=asset.shot_id, uri=asset.uri, found=found, flaw=found.flaw)


async def check_film_credentials(store: Store, project: str, *, read: bool) -> AssetCredentials | None:
    """Build the line of a report about the C2PA manifest of a project's film; None where nothing was looked for.

    Args:
        store: The store.
        project: Name of the project.
        read: Read it anew, instead of what was read when the film was stored.

    Raises:
        StoreError: The store cannot be read.
    """
    film = await find_current_film(store, project)
    if film is None:
        return None
    found = known = film.content_credentials
    uri = f"{store.url}/{project}/{film.uri.rpartition('/')[2]}"
    if read and film.uri.endswith(".mp4"):
        found = await read_stored_credentials(store, uri, known)
    if found is None:
        return None
    is_gone = known is not None and found.state == "absent"
    flaw = "it has no C2PA manifest, although it was signed" if is_gone else found.flaw
    return AssetCredentials(project=project, shot="final cut", uri=uri, found=found, flaw=flaw)


def _compare_with_ledger(video: VideoFile, job: Job) -> str | None:
    """Return how a line differs from its row; the file itself is compared with the row elsewhere.

    A row that is no longer stored was settled: its line is old, and nothing is missing.
    """
    if job.state is not State.STORED or job.asset is None or job.asset.sha256 == video.sha256:
        return None
    return f"the manifest says SHA-256 {video.sha256}, the ledger {job.asset.sha256}"


async def _compare_with_file(store: Store, project: str, video: VideoFile, path: str) -> str | None:
    uri = f"{store.url}/{project}/{path}"
    if not store.owns(uri):
        return "the manifest names a file outside of the store"
    uri = store.canonical_uri(uri)
    if described := describe_size(await store.size(uri), video.bytes):
        return described
    digest = await read_sha256(store, uri)
    return None if digest == video.sha256 else f"its SHA-256 is {digest}, the manifest says {video.sha256}"
