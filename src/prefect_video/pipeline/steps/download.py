"""Download: fetch the video of a completed generation into the spool, and check it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from prefect_video._shield import shielded
from prefect_video.downloads import Downloaded, Media, check_media, prepare_private_folder, probe
from prefect_video.downloads import download as fetch
from prefect_video.errors import (
    GenerationExpired,
    HeldForReview,
    InvalidResponse,
    InvalidVideo,
    StoreOutage,
)
from prefect_video.generations import Generation, Status
from prefect_video.ledger import HoldReason, Job, State, hold_message
from prefect_video.pipeline.steps.end import end, raise_if_ended, require_same_account
from prefect_video.pipeline.steps.store_check import require_whole_neighbors
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)

_INVALID_FILE_ATTEMPTS: Final = 2
"""Downloads before a file that is not the requested video is held: the first may have been damaged on the way."""


async def download(session: Session, job: Job) -> Downloaded:
    """Fetch the video of a completed job into the spool and check that it is the requested one.

    Raises:
        GenerationEnded: The provider no longer has the video, or another process ended the job.
        DownloadError: It could not be fetched; the job stays completed and can be fetched later.
        HeldForReview: The provider serves a file that is not the requested video, or it is another account's.
        StoreError: The spool cannot be written.
    """
    raise_if_ended(job)
    require_same_account(session, job)
    async with session.download_slots:
        session.notify(SessionEvent.DOWNLOADING, job)
        for left in reversed(range(_INVALID_FILE_ATTEMPTS)):
            fetched = await _fetch(session, job)
            try:
                media = await _check(fetched.path, job)
            except InvalidVideo as error:
                fetched.path.unlink(missing_ok=True)
                logger.warning("shot %s: %s%s", job.shot.id, error, "; fetching it again" if left else "")
                if not left:
                    await _hold(session, job, error)
            else:
                session.notify(SessionEvent.DOWNLOADED, job)
                return replace(fetched, media=media)
    raise AssertionError("unreachable: the last try returns or raises")


async def _fetch(session: Session, job: Job) -> Downloaded:
    generation = await session.fresh_generations.pop(job.account, job.generation_id or "")
    if generation is None:
        generation = await _retrieve(session, job)
    assert generation.result is not None

    async def refresh() -> str:
        fresh = await _retrieve(session, job)
        assert fresh.result is not None
        return fresh.result.video_url

    return await fetch(
        session.provider.download_source(generation),
        await _spool_file(session, job),
        client=session.download_client,
        policy=session.link_policy,
        expected_bytes=generation.result.file_size,
        refresh=refresh,
    )


async def _retrieve(session: Session, job: Job) -> Generation:
    generation = await session.poller.poll_once(job.generation_id or "")
    if not generation.status.ended:
        # It was completed: an unknown status string counts as processing, and is no verdict.
        raise InvalidResponse(
            f"shot {job.shot.id!r}: generation {generation.id} was completed and is now reported as in progress;"
            " run again to poll it again",
            provider=generation.provider,
            generation_id=generation.id,
        )
    if generation.status is not Status.COMPLETED or generation.result is None:
        error = GenerationExpired(
            f"shot {job.shot.id!r}: generation {generation.id} was completed and is now {generation.status.value}"
            " without a video.",
            provider=generation.provider,
            generation_id=generation.id,
        )
        if job.is_reopened:
            await _require_no_outage(session, job)
            # It was stored once and is settled: with the provider's copy missing too, the next claim buys it.
            await session.ledger.jobs.record_missing(job.id, f"{job.error_message}. {error}")
        else:
            await end(session, job, State.EXPIRED, error, generation=generation)
        raise error
    return generation


async def _require_no_outage(session: Session, job: Job) -> None:
    """Refuse to let a stored job be bought again where more of its store is missing; it is then stored as before."""
    try:
        await require_whole_neighbors(session, job)
    except StoreOutage:
        if job.asset:
            await shielded(session.ledger.jobs.record_stored(job.id, job.asset, store_id=job.store_id))
        raise


async def _check(path: Path, job: Job) -> Media:
    media = await asyncio.to_thread(probe, path)
    check_media(media, job.shot)
    return media


async def _hold(session: Session, job: Job, error: InvalidVideo) -> None:
    message = hold_message(
        HoldReason.WRONG_VIDEO,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=job.generation_id,
        cause=str(error),
    )
    await session.ledger.jobs.hold(job.id, message)
    raise HeldForReview(message) from error


async def _spool_file(session: Session, job: Job) -> Path:
    spool = session.settings.spool
    await asyncio.to_thread(prepare_private_folder, spool)
    return spool / f"{job.id}.mp4"
