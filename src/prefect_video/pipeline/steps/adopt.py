"""Adoption: the sidecars of a project's folder are read before anything of it is bought.

They are evidence that outlives the ledger. A video of the same fingerprint, whichever ledger paid for it, is adopted
instead of bought; where its file is cut or missing it is fetched again, free, from the account that made it. A video
of this very ledger that it does not know shows that the ledger is an old backup.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from prefect_video._counted import counted
from prefect_video.assets import Asset
from prefect_video.errors import InvalidTransition, LedgerBehindStore
from prefect_video.ledger import Job, JobRequest, Ledger, State, job_from_values, row_from_request
from prefect_video.pipeline.steps.adopt_rejected import adopt_kept, choose_kept, find_unknown, read_all_kept
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import describe_size
from prefect_video.pipeline.steps.store_identity import claim_store
from prefect_video.pipeline.steps.whole_copies import MISSING, find_whole_copies, place_copy
from prefect_video.session import Session
from prefect_video.storage import (
    KeptVideo,
    Sidecar,
    SidecarName,
    Store,
    fingerprint_digest,
    parse_sidecar,
    rejected_paths,
    sidecar_path,
)

logger = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 16


@dataclass(frozen=True)
class StoredVideo:
    """A video in a store's folder, described by its sidecar.

    Attributes:
        uri: URI of the sidecar.
        name: The parsed file name of the sidecar.
        sidecar: Content of the sidecar; None where it cannot be read, or contradicts its name.
        size: Bytes of the video beside it; None where there is none.
    """

    uri: str
    name: SidecarName
    sidecar: Sidecar | None
    size: int | None

    @property
    def is_whole(self) -> bool:
        """True where the video exists with the size in its sidecar."""
        return self.sidecar is not None and self.size == self.sidecar.asset.bytes


async def adopt_stored(session: Session, job_requests: Sequence[JobRequest]) -> list[Job | None]:
    """Adopt the videos in the store of requests that would be bought; read nothing where none would be.

    Returns:
        The job of each request that a claim would return afterwards; None where the video would be bought.

    Raises:
        LedgerBehindStore: The store holds what this ledger has bought and does not know, or a video that is probably
            one of them and whose sidecar cannot be read; nothing may be bought.
        StoreError: The store cannot be read.
    """
    existing, missing = await session.ledger.jobs.find_existing_and_missing(job_requests)
    unpaid = [
        job_request
        for job_request, found in zip(job_requests, existing, strict=True)
        if found is None or found.generation_id is None
    ]
    lost = {
        job.id: job
        for job_request, found, missing_jobs in zip(job_requests, existing, missing, strict=True)
        if (found is None or found.generation_id is None) and not job_request.refresh
        for job in missing_jobs
    }
    adopted = await _adopt_copies(session, list(lost.values()))
    for project in dict.fromkeys(job_request.project for job_request in unpaid):
        adopted += await _adopt_in_folder(
            session, project, [job_request for job_request in unpaid if job_request.project == project]
        )
    return await session.ledger.jobs.find_existing(job_requests) if adopted else existing


async def require_unpaid(session: Session, job: Job) -> None:
    """Refuse to send a job whose sidecar is in the store: an old backup may know it as reserved only.

    Raises:
        LedgerBehindStore: It is there.
        StoreError: The store cannot be read.
    """
    path = asset_draft(job, session.ledger.identity).path
    for uri in map(session.store.uri, (sidecar_path(path), rejected_paths(path)[1])):
        if await session.store.size(uri) is not None:
            raise LedgerBehindStore(
                f"shot {job.shot.id!r}: job {job.id} is {job.state.value} in the ledger {session.ledger.url_label},"
                f" and its sidecar {uri} shows that it was paid: the ledger is an old backup. Nothing was sent. Run:"
                f" {_recover_command(session)}"
            )


async def find_unrecorded(ledger: Ledger, videos: Sequence[StoredVideo]) -> list[StoredVideo]:
    """Return the videos that this very ledger has paid for, by their sidecars, and does not know."""
    own: dict[str, tuple[str, str]] = {}
    for video in videos:
        # A clip that was made by hand is no payment that the ledger could have forgotten.
        is_paid = video.sidecar is not None and video.sidecar.asset.origin == "generated"
        if is_paid and video.sidecar and video.sidecar.ledger and video.sidecar.ledger.id == ledger.identity:
            own[video.uri] = (video.sidecar.ledger.job, video.sidecar.asset.generation_id)
    jobs = await ledger.recovery.find_paid(*zip(*own.values(), strict=True)) if own else []
    known = {name for job in jobs if job.generation_id for name in (job.id, job.generation_id)}
    return [video for video in videos if video.uri in own and known.isdisjoint(own[video.uri])]


async def list_folder(store: Store, folder: str) -> dict[str, int]:
    """Return the size in bytes of each file below a folder, by URI; nothing where there is no such folder."""
    return {file.uri: file.bytes async for file in store.files(folder)}


async def read_videos(store: Store, sidecars: Mapping[str, SidecarName], files: Mapping[str, int]) -> list[StoredVideo]:
    """Read sidecars, several at a time; the sizes of the videos beside them are those of the listing."""
    slots = asyncio.Semaphore(_READ_AT_ONCE)

    async def read(uri: str, name: SidecarName) -> StoredVideo:
        video = f"{uri.removesuffix('.json')}.mp4"
        async with slots:
            try:
                content = await store.read_bytes(uri)
            except FileNotFoundError:
                # Removed since the listing. Unreadable is the safe answer: a video beside it is not bought again.
                content = b""
            sidecar = parse_sidecar(content)
            if sidecar and fingerprint_digest(sidecar.asset.fingerprint) != name.digest:
                # Renamed or exchanged by hand, it proves nothing about the video beside it.
                sidecar = None
        return StoredVideo(uri, name, sidecar, files.get(video))

    return list(await asyncio.gather(*(read(uri, name) for uri, name in sidecars.items())))


def sidecars_of(files: Collection[str]) -> dict[str, SidecarName]:
    """Pick the sidecars out of a listing."""
    return {uri: name for uri in files if (name := SidecarName.parse(uri))}


def relocate_asset(video: StoredVideo) -> Asset:
    """Return a video's asset with the place it was found at: it may have moved since its sidecar was written."""
    assert video.sidecar is not None
    stem = video.uri.removesuffix(".json")
    thumbnail = video.sidecar.asset.thumbnail_uri and f"{stem}.jpg"
    places = {"uri": f"{stem}.mp4", "sidecar_uri": video.uri, "thumbnail_uri": thumbnail}
    return video.sidecar.asset.model_copy(update=places)


async def _adopt_copies(session: Session, stored_once: Sequence[Job]) -> int:
    """Adopt whole copies of videos that were stored once, and whose own files are missing."""
    missing = [job for job in stored_once if job.asset and not job.hold_reason]
    copies = await find_whole_copies(session.ledger, session.store, missing)
    store_id = await claim_store(session) if copies else None
    for job in missing:
        if copy := copies.get(job.id):
            asset = await place_copy(session.ledger, session.store, job, copy, MISSING)
            place = {"asset": asset, "store_id": store_id, "store": session.store_name}
            found = {"state": State.STORED, "error_message": None, **place}
            await session.ledger.recovery.adopt(job.model_copy(update=found), f"its whole copy {copy.uri} was found")
            logger.warning("%s/%s: a whole copy is used instead of buying it: %s", job.project, job.shot.id, copy.uri)
    return len(copies)


async def _adopt_in_folder(session: Session, project: str, job_requests: Sequence[JobRequest]) -> int:
    wanted = {fingerprint_digest(job_request.fingerprint) for job_request in job_requests}
    if session.folder_listings.has_shown_none(project, wanted):
        return 0
    files = await list_folder(session.store, project)
    videos = await _read_relevant(session, project, wanted, files)
    kept = await find_unknown(session.ledger, await read_all_kept(session.store, files))
    # Before the first adoption: an old backup is to be recovered, not patched shot by shot.
    await _require_up_to_date(session, project, videos, kept)
    held = {name.digest for name in sidecars_of(files).values()}
    session.folder_listings.record(project, held | {fingerprint_digest(video.draft.fingerprint) for video in kept})
    adopted = 0
    for job_request in job_requests:
        if job_request.refresh:
            continue
        # By worth: a whole video, one that can be fetched again free, a rejected one that a human must accept.
        if (video := _find_video(job_request, videos)) is not None:
            adopted += await _adopt(session, job_request, _stored_job(session, job_request, video), video)
        elif (video := await _find_lost_video(session, job_request, videos)) is not None:
            adopted += await _adopt(session, job_request, _reopened_job(session, job_request, video), video)
        elif (rejected := choose_kept(job_request, kept)) is not None:
            adopted += await adopt_kept(session, job_request, rejected)
    return adopted


async def _read_relevant(
    session: Session, project: str, wanted: Collection[str], files: Mapping[str, int]
) -> list[StoredVideo]:
    """Read the sidecars of a requested fingerprint, and those whose name is of no job of this ledger."""
    sidecars = sidecars_of(files)
    if not sidecars:
        return []
    known = {SidecarName.of(fingerprint, job) for job, fingerprint in await session.ledger.recovery.paid_jobs(project)}
    relevant = {
        uri: name
        for uri, name in sidecars.items()
        if name.digest in wanted or (name not in known and uri not in session.foreign_sidecars)
    }
    videos = await read_videos(session.store, relevant, files)
    for video in videos:
        if video.sidecar and (video.sidecar.ledger is None or video.sidecar.ledger.id != session.ledger.identity):
            # Remembered, so that each further claim of the session need not read another ledger's sidecars.
            session.foreign_sidecars.add(video.uri)
    return videos


async def _require_up_to_date(
    session: Session, project: str, videos: Sequence[StoredVideo], kept: Sequence[KeptVideo]
) -> None:
    """Refuse a ledger that does not know what it has bought: its sidecar proves that, with or without its video."""
    own = [video.uri for video in kept if video.draft.ledger and video.draft.ledger.id == session.ledger.identity]
    if unknown := [*(video.uri for video in await find_unrecorded(session.ledger, videos)), *own]:
        raise LedgerBehindStore(
            f"project {project!r}: the store {session.store.url} holds {counted(len(unknown), 'video')} that the ledger"
            f" {session.ledger.url_label} has bought and does not know (such as {unknown[0]}): it is an old backup."
            f" Nothing was sent, as what it has forgotten would be paid again. Run: {_recover_command(session)}"
        )


def _recover_command(session: Session) -> str:
    return session.ledger.recover_command(session.store_name)


def _find_video(job_request: JobRequest, videos: Sequence[StoredVideo]) -> StoredVideo | None:
    """Choose the newest whole video of a request.

    Raises:
        LedgerBehindStore: There is none, but one whose sidecar cannot be read may be it.
    """
    same = [video for video in videos if _is_of(video, job_request) and video.is_whole]
    if same:
        # A clip that was adopted for the shot counts before a video of another shot, as in a claim.
        by_hand = [video for video in same if video.sidecar and video.sidecar.asset.origin == "by hand"]
        return max(by_hand or same, key=_published_at)
    digest = fingerprint_digest(job_request.fingerprint)
    for video in videos:
        if video.name.digest == digest and video.sidecar is None and video.size:
            raise LedgerBehindStore(
                f"shot {job_request.shot.id!r}: {video.uri.removesuffix('.json')}.mp4 bears the shot's fingerprint,"
                f" and its sidecar {video.uri} cannot be read, so it may not be whole. It is not bought again."
                " Restore the sidecar from a backup; or remove both files (or use --refresh) to have it made anew"
            )
    return None


async def _find_lost_video(
    session: Session, job_request: JobRequest, videos: Sequence[StoredVideo]
) -> StoredVideo | None:
    """Choose the newest video of a request that is cut or missing, and can be fetched again from the account in use.

    Not one of a generation that this ledger knows: that was tried before, and the provider no longer has it.
    """
    same = [video for video in videos if _is_of(video, job_request) and _is_at(video, job_request)]
    if not same:
        return None
    ids = {video.sidecar.asset.generation_id for video in same if video.sidecar}
    known = {job.generation_id for job in await session.ledger.recovery.find_paid((), ids)}
    return max(
        (video for video in same if video.sidecar and video.sidecar.asset.generation_id not in known),
        key=_published_at,
        default=None,
    )


def _is_at(video: StoredVideo, job_request: JobRequest) -> bool:
    """Return whether a video was made by the account that would make it again."""
    if video.sidecar is None or video.sidecar.ledger is None or not video.sidecar.asset.generation_id:
        return False
    return (video.sidecar.asset.provider, video.sidecar.ledger.account) == (job_request.provider, job_request.account)


def _published_at(video: StoredVideo) -> datetime:
    assert video.sidecar is not None
    return video.sidecar.asset.created_at


def _is_of(video: StoredVideo, job_request: JobRequest) -> bool:
    if video.sidecar is None or video.sidecar.asset.fingerprint != job_request.fingerprint:
        return False
    asset, reference = video.sidecar.asset, video.sidecar.ledger
    if asset.origin == "by hand" and (asset.project, asset.shot_id) != (job_request.project, job_request.shot.id):
        # A clip that was adopted for a shot is for that shot alone.
        return False
    if reference is not None and reference.environment != job_request.environment:
        return False
    if job_request.ttl_seconds is None:
        return True
    # A copy is younger than what it is a copy of.
    is_copy = reference is not None and reference.project != video.sidecar.asset.project
    oldest = datetime.now(UTC) - timedelta(seconds=job_request.ttl_seconds)
    return not is_copy and video.sidecar.asset.created_at >= oldest


async def _adopt(session: Session, job_request: JobRequest, job: Job, video: StoredVideo) -> bool:
    """Add a job; a video that another ledger has paid for costs nothing in this one."""
    assert video.sidecar is not None
    reference = video.sidecar.ledger
    payer = f"ledger {reference.id}" if reference else "a ledger that its sidecar does not name"
    try:
        job = await session.ledger.recovery.adopt(job, f"adopted from {video.uri}; paid by {payer}")
    except InvalidTransition as error:
        logger.info("%s/%s: not adopted: %s", job_request.project, job_request.shot.id, error)
        return False
    logger.warning(
        "%s/%s: found in the store and not in the ledger: adopted instead of bought; paid by %s",
        job_request.project,
        job_request.shot.id,
        payer,
    )
    return True


def _reopened_job(session: Session, job_request: JobRequest, video: StoredVideo) -> Job:
    """Build the job of a video that is to be fetched again, free, as one whose file went missing in this ledger."""
    assert video.sidecar is not None
    flaw = describe_size(video.size, video.sidecar.asset.bytes)
    update = {
        "state": State.COMPLETED,
        "credentials": job_request.credentials,
        "error_message": f"its stored file was {flaw}",
    }
    return _stored_job(session, job_request, video).model_copy(update=update)


def _stored_job(session: Session, job_request: JobRequest, video: StoredVideo) -> Job:
    assert video.sidecar is not None
    asset, reference = relocate_asset(video), video.sidecar.ledger
    values = row_from_request(job_request, State.STORED, 1, None, asset.created_at)
    values |= {
        "provider": asset.provider,
        "generation_id": asset.generation_id,
        "reserved_usd": None,
        # What a named ledger has paid is counted there; without a name it is counted here.
        "actual_usd": Decimal(0) if reference else video.sidecar.cost_usd,
        "flow_run_id": None,
        "submitted_at": asset.created_at,
        "completed_at": asset.created_at,
        "stored_at": asset.created_at,
        "asset": asset,
        "quality": asset.quality,
    }
    if reference:
        values |= {
            # The same id in both ledgers, as the names of the files in the store end with it.
            "id": reference.job,
            "account": reference.account,
            "credentials": reference.credentials,
            "key_fingerprint": reference.key_fingerprint,
        }
    return job_from_values(values)
