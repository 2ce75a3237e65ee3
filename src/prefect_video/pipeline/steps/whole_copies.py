"""Whole copies: a stored video whose own file is missing or damaged may lie whole elsewhere in reach.

They are looked for before the video is fetched again, and once more before it is bought: at the places of its copies,
which the ledger knows, and in the whole store in use, by the name that all files of one job share. What counts is the
content, by size and SHA-256.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from prefect_video.assets import Asset
from prefect_video.errors import InvalidInput, StoreError
from prefect_video.ledger import Job, Ledger
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_identity import claim_store
from prefect_video.session import Session
from prefect_video.storage import SidecarName, Store, copy_video, read_sha256, sizes_anywhere

logger = logging.getLogger(__name__)

MISSING = "missing"
"""The flaw of a file that is not there."""


async def use_whole_copies(session: Session, stored: Mapping[str, Job], flaws: Mapping[str, str]) -> dict[str, Job]:
    """Let stored jobs whose files are flawed have a whole copy for their file.

    Args:
        session: The ledger and the store in use.
        stored: The stored jobs, by any key.
        flaws: The flaws of some of their files, by the same keys.

    Returns:
        Those jobs that have a whole file now, by their keys.

    Raises:
        StoreError: The store in use cannot be read or written.
    """
    copies = await find_whole_copies(session.ledger, session.store, [stored[key] for key in flaws])
    return {
        key: await use_copy(session, stored[key], copies[stored[key].id], flaw)
        for key, flaw in flaws.items()
        if stored[key].id in copies
    }


async def find_whole_copies(ledger: Ledger, store: Store, jobs: Collection[Job]) -> dict[str, Asset]:
    """Find whole copies of the videos of jobs that were stored, by the jobs' ids; nothing is written.

    Args:
        ledger: Knows where copies are.
        store: The store in use, which is searched.
        jobs: The jobs.

    Returns:
        For each job that has one, its asset with the place of the copy.

    Raises:
        StoreError: The store in use cannot be read.
    """
    if not jobs:
        return {}
    known = await ledger.stores.copies_of([job.id for job in jobs])
    found: dict[str, Asset] = {}
    for job in jobs:
        if copy := await _first_whole(store, job, known.get(job.id, ())):
            found[job.id] = copy
    if missing := [job for job in jobs if job.id not in found]:
        places = await _find_by_name(store, missing)
        for job in missing:
            if copy := await _first_whole(store, job, places.get(job.id, ())):
                found[job.id] = copy
    return found


async def has_copy(session: Session, job: Job) -> bool:
    """Return whether the ledger knows a copy of a job's video that is in reach and as long as the video."""
    assert job.asset is not None
    known = (await session.ledger.stores.copies_of([job.id])).get(job.id, ())
    return job.asset.bytes in (await sizes_in_reach(session.store, [copy.uri for copy in known])).values()


async def use_copy(session: Session, job: Job, copy: Asset, flaw: str) -> Job:
    """Record a whole copy as the file of a stored job; where its own file is damaged, replace that by the copy.

    Returns:
        The job as it is now.

    Raises:
        StoreError: The store in use cannot be written.
    """
    store_id = await claim_store(session)
    asset = await place_copy(session.ledger, session.store, job, copy, flaw)
    repair = f"its stored file was {flaw}; its whole copy {copy.uri} was used"
    if await session.ledger.stores.move_asset(job, asset, store_id=store_id, store=session.store_name, detail=repair):
        logger.warning("%s/%s: %s", job.project, job.shot.id, repair)
        session.repairs[job.id] = repair
        return job.model_copy(update={"asset": asset, "store_id": store_id, "store": session.store_name})
    return await session.ledger.jobs.get(job.id)


async def place_copy(ledger: Ledger, store: Store, job: Job, copy: Asset, flaw: str) -> Asset:
    """Return the asset that a whole copy is, or becomes: one in another store, or of a damaged file, is copied here.

    Raises:
        StoreError: The store cannot be written.
    """
    if flaw == MISSING and store.owns(copy.uri):
        return copy
    return await copy_video(store, copy, draft=asset_draft(job, ledger.identity))


async def sizes_in_reach(store: Store, uris: Collection[str]) -> dict[str, int]:
    """Return the sizes of files wherever they are, those left out that are missing or out of reach.

    Raises:
        StoreError: The store in use cannot be read.
    """
    sizes = await store.sizes([uri for uri in uris if store.owns(uri)])
    by_store: dict[str, list[str]] = {}
    for uri in uris:
        if not store.owns(uri):
            by_store.setdefault(urlsplit(uri).netloc, []).append(uri)
    for elsewhere in by_store.values():
        sizes |= await _sizes_elsewhere(store, elsewhere)
    return sizes


async def _sizes_elsewhere(store: Store, uris: Sequence[str]) -> dict[str, int]:
    try:
        return await sizes_anywhere(store, uris)
    except (InvalidInput, StoreError) as error:
        if len(uris) == 1:
            logger.warning("%s is out of reach: %s", uris[0], error)
            return {}
    # One that cannot be looked up says nothing about the others.
    found = [await _sizes_elsewhere(store, [uri]) for uri in uris]
    return {uri: size for sizes in found for uri, size in sizes.items()}


async def _first_whole(store: Store, job: Job, copies: Sequence[Asset]) -> Asset | None:
    """Return the asset of a job with the place of its first copy that has its content."""
    if job.asset is None:
        return None
    sizes = await sizes_in_reach(store, [copy.uri for copy in copies])
    for copy in copies:
        if sizes.get(copy.uri) == job.asset.bytes:
            try:
                digest = await read_sha256(store, copy.uri)
            except StoreError as error:
                logger.warning("the copy %s cannot be read: %s", copy.uri, error)
                continue
            if digest == job.asset.sha256:
                places = copy.model_dump(include={"uri", "sidecar_uri", "thumbnail_uri"})
                return job.asset.model_copy(update=places)
    return None


async def _find_by_name(store: Store, jobs: Collection[Job]) -> dict[str, list[Asset]]:
    """Find videos of jobs in a whole store by the name that a job's files share, by the jobs' ids."""
    wanted: dict[SidecarName, list[Job]] = {}
    for job in jobs:
        for name in {SidecarName.of(job.fingerprint, job.id), _name_of_file(job)} - {None}:
            assert name is not None
            wanted.setdefault(name, []).append(job)
    found: dict[str, list[Asset]] = {}
    for folder in ("", *await store.folders()):
        async for file in store.files(folder):
            stem = file.uri.removesuffix(".mp4")
            name = SidecarName.parse(f"{stem}.json") if stem != file.uri else None
            for job in wanted.get(name, ()) if name else ():
                if job.asset and file.bytes == job.asset.bytes:
                    thumbnail = job.asset.thumbnail_uri and f"{stem}.jpg"
                    places = {"uri": file.uri, "sidecar_uri": f"{stem}.json", "thumbnail_uri": thumbnail}
                    found.setdefault(job.id, []).append(job.asset.model_copy(update=places))
    return found


def _name_of_file(job: Job) -> SidecarName | None:
    """Return the name in a job's file, which bears the id of the job that was paid: an adopted one may have another."""
    return SidecarName.parse(f"{job.asset.uri.removesuffix('.mp4')}.json") if job.asset else None
