"""Clips made by hand: a file, or an https address, that is checked and stored as the video of a shot, at no cost.

They never pass through claim and submit. The job of a clip is stored from its first moment, and its id is made from
what it is of, so that a process that died before it could record a published clip publishes the same files again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Final

from prefect_video._shield import run_in_thread
from prefect_video.assets import MANUAL
from prefect_video.downloads import (
    Downloaded,
    Media,
    VideoSource,
    download,
    find_mismatches,
    prepare_private_folder,
    probe,
    show_source,
)
from prefect_video.errors import DownloadError, InvalidInput, InvalidTransition, InvalidVideo
from prefect_video.fingerprints import clip_fingerprint
from prefect_video.ledger import Job, JobRequest, State, command_line, is_given_up, job_from_values, row_from_request
from prefect_video.pipeline.steps.spans import current_traceparent
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import find_flaws
from prefect_video.pipeline.steps.store_identity import accept_store, check_store, claim_store
from prefect_video.projects import Project
from prefect_video.session import Session
from prefect_video.shots import Shot, is_web_address
from prefect_video.storage import file_sha256, publish_video, sidecar_path, thumbnail_path

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".mp4"


async def build_clip_request(
    session: Session, shot: Shot, project: Project, *, flow_run_id: str | None = None
) -> JobRequest:
    """Build the request of a shot with a clip, whose fingerprint is of the file's content, or of the address.

    Raises:
        InvalidInput: The file cannot be read.
    """
    assert shot.clip is not None
    identity = shot.clip if is_web_address(shot.clip) else await asyncio.to_thread(_digest, shot)
    return JobRequest(
        fingerprint=clip_fingerprint(identity),
        # The query of an address may be a secret: it is for the fetch alone.
        shot=shot.model_copy(update={"clip": show_source(shot.clip)}),
        project=project.name,
        provider=MANUAL,
        account=MANUAL,
        environment=session.settings.environment,
        credentials=MANUAL,
        store=session.store_name,
        estimate_usd=Decimal(0),
        flow_run_id=flow_run_id,
        traceparent=current_traceparent(),
    )


async def find_clips(
    session: Session, requests: Sequence[JobRequest], *, rebuy_missing: bool = False
) -> list[Job | None]:
    """Find the jobs of clips that are stored whole; None for each that is yet to be stored.

    Args:
        session: The ledger and the store.
        requests: The requests of the clips.
        rebuy_missing: Accept the store, although it is another one; what is out of reach counts as missing.

    Raises:
        StoreOutage: The store is not the one that the ledger knows.
        StoreError: The store cannot be read.
    """
    if rebuy_missing:
        await accept_store(session.ledger, session.store)
    else:
        await check_store(session.ledger, session.store, session.store_name)
    jobs = await session.ledger.jobs.find_existing(requests)
    stored = {job.id: job for job in jobs if job and job.state is State.STORED}
    flaws = await find_flaws(session, stored, must_reach=rebuy_missing) if stored else {}
    return [job if job and job.id in stored and job.id not in flaws else None for job in jobs]


async def store_clip(session: Session, request: JobRequest, source: str) -> Job:
    """Check a clip and store it as the video of a request; an earlier video stays in the store and the ledger.

    Args:
        session: The ledger and the store.
        request: The request that it answers.
        source: Path of the file, or its address, which is fetched once.

    Raises:
        InvalidInput: It cannot be read or fetched, is no video, or no MP4; or a generation of the request is in
            progress or held. Nothing was changed.
        StoreError: The store cannot be written.
    """
    await require_settled(session, [request])
    fetched = await _fetch(session, request.shot, source)
    try:
        media = await _check(fetched, request.shot, source)
        notes = tuple(mismatch.reason for mismatch in find_mismatches(media, request.shot))
        clip = replace(fetched, media=media, notes=() if request.shot.clip else notes)
        job = _job_of(session, request, clip)
        store_id = await claim_store(session)
        asset = await publish_video(session.store, clip, media, draft=asset_draft(job, session.ledger.identity))
        stored = {"asset": asset, "store_id": store_id, "stored_at": datetime.now(UTC)}
        try:
            return await session.ledger.recovery.record_manual(
                job.model_copy(update=stored), f"made by hand: {show_source(source)}"
            )
        except InvalidTransition as error:
            await _withdraw(session, job)
            raise InvalidInput(f"shot {request.shot.id!r}: clip: {error}") from error
    finally:
        await asyncio.to_thread(fetched.path.unlink, missing_ok=True)


async def require_settled(session: Session, requests: Sequence[JobRequest]) -> None:
    """Refuse a clip for a shot of which a generation is in progress or held: it is paid, or may be.

    Raises:
        InvalidInput: The message says how to settle it.
    """
    ledger = session.ledger.command_option
    for request, job in zip(requests, await session.ledger.jobs.find_existing(requests), strict=True):
        if job is None or job.state is State.STORED or is_given_up(job.hold_reason, shot=job.shot.id):
            continue
        if job.hold_reason is not None:
            raise InvalidInput(
                f"shot {request.shot.id!r}: job {job.id} is held and may be paid, so no clip takes its place before"
                f" that is decided: {job.hold_reason}"
            )
        collect, cancel = (
            command_line("collect", "--wait", ledger=ledger),
            command_line("cancel", job.id, ledger=ledger),
        )
        raise InvalidInput(
            f"shot {request.shot.id!r}: job {job.id} is {job.state.value} at {job.provider}, so no clip takes its place"
            f" before that has ended. Let its run finish, or run: {collect}; or give it up: {cancel}"
        )


async def _withdraw(session: Session, job: Job) -> None:
    """Delete the published files of a clip that no job stands for."""
    if await session.ledger.jobs.get_many([job.id]):
        return
    video = asset_draft(job, session.ledger.identity).path
    for path in (video, sidecar_path(video), thumbnail_path(video)):
        await session.store.delete(session.store.uri(path))


def _job_of(session: Session, request: JobRequest, clip: Downloaded) -> Job:
    """Build the job of a clip, without its asset; its id says what it is of."""
    ledger = session.ledger.identity
    parts = (ledger, request.environment, request.project, request.shot.id, request.fingerprint, clip.sha256)
    job_id = str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(parts)))
    now = datetime.now(UTC)
    values = row_from_request(request, State.STORED, 1, None, now)
    return job_from_values(
        values
        | {
            "id": job_id,
            "provider": MANUAL,
            "account": MANUAL,
            "credentials": MANUAL,
            "store": session.store_name,
            "generation_id": f"{MANUAL}-{job_id}",
            "reserved_usd": Decimal(0),
            "actual_usd": Decimal(0),
            "completed_at": now,
            "stored_at": now,
        }
    )


async def _fetch(session: Session, shot: Shot, source: str) -> Downloaded:
    """Copy or download a clip into the spool, so that what is checked is what is stored."""
    spool = session.settings.spool
    await asyncio.to_thread(prepare_private_folder, spool)
    if not is_web_address(source):
        path = spool / f"clip-{uuid.uuid4()}{_SUFFIX}"
        return await run_in_thread(_copy, shot, Path(PurePosixPath(source)), path)
    # By its address: what a killed process has begun is continued.
    path = spool / f"clip-{hashlib.sha256(source.encode()).hexdigest()[:32]}{_SUFFIX}"
    try:
        async with session.download_slots:
            return await download(VideoSource(source), path, client=session.download_client, policy=session.link_policy)
    except DownloadError as error:
        raise InvalidInput(f"shot {shot.id!r}: clip: {error}") from error


def _copy(shot: Shot, source: Path, target: Path) -> Downloaded:
    try:
        shutil.copyfile(source, target)
    except (OSError, shutil.Error) as error:
        target.unlink(missing_ok=True)
        raise _unreadable(shot, str(source), error) from error
    return Downloaded(target, file_sha256(target), target.stat().st_size)


async def _check(clip: Downloaded, shot: Shot, source: str) -> Media:
    """Measure a clip, and refuse what is no whole MP4."""
    try:
        media = await asyncio.to_thread(probe, clip.path)
    except InvalidVideo as error:
        cause = error.message.removeprefix(f"{clip.path.name}: ")
        raise InvalidInput(f"shot {shot.id!r}: clip: {show_source(source)}: {cause}") from error
    if media.container is not None or not media.begins_with_brand:
        kind = media.container or "an MP4 that does not begin with its `ftyp` box"
        raise InvalidInput(f"shot {shot.id!r}: clip: {show_source(source)} is {kind}: convert it to an MP4")
    return media


def _digest(shot: Shot) -> str:
    try:
        return file_sha256(Path(PurePosixPath(shot.clip or "")))
    except OSError as error:
        raise _unreadable(shot, shot.clip or "", error) from error


def _unreadable(shot: Shot, source: str, error: Exception) -> InvalidInput:
    cause = getattr(error, "strerror", None) or error
    return InvalidInput(f"shot {shot.id!r}: clip: cannot read {source}: {cause}")
