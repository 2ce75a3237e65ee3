"""Download: fetch the video of a completed generation into the spool, and check it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn, Self

from prefect_video._shield import shielded
from prefect_video.downloads import (
    DEFAULT_SETTINGS,
    Downloaded,
    DownloadSettings,
    Media,
    Mismatch,
    assess_quality,
    decode_in_thread,
    find_mismatches,
    load_finished,
    measure_content,
    probe,
    require_match,
)
from prefect_video.downloads import download as fetch
from prefect_video.errors import (
    GenerationExpired,
    HeldForReview,
    IncompleteDownload,
    InvalidResponse,
    InvalidVideo,
    StoreOutage,
    VideoMismatch,
    VideoRejected,
)
from prefect_video.generations import Generation, Status
from prefect_video.ledger import HoldReason, Job, State, command_line, hold_message
from prefect_video.pipeline.steps.absence import require_loss_proven
from prefect_video.pipeline.steps.end import end, raise_if_ended, require_same_account
from prefect_video.pipeline.steps.spans import traced_step
from prefect_video.pipeline.steps.store import asset_draft
from prefect_video.pipeline.steps.store_check import require_whole_neighbors
from prefect_video.pipeline.steps.store_identity import claim_store
from prefect_video.quality import Quality
from prefect_video.session import Session, SessionEvent
from prefect_video.storage import find_rejected, keep_rejected

logger = logging.getLogger(__name__)

_INVALID_FILE_ATTEMPTS: Final = 2
"""Downloads before a file that is not the requested video is held: the first may have been damaged on the way."""

_DIGEST_CHARS: Final = 12
"""Hex digits of a generation's digest in the name of its file in the spool."""


@traced_step("download")
async def download(session: Session, job: Job) -> Downloaded:
    """Fetch the video of a completed job into the spool and check that it is the requested one.

    Raises:
        VideoRejected: It fails a quality gate and is kept; the job has ended, for another take to be bought.
        GenerationEnded: The provider no longer has the video, or another process ended the job.
        DownloadError: It could not be fetched; the job stays completed and can be fetched later.
        HeldForReview: The provider serves a file that is not the requested video, which is kept, or the job is another
            account's.
        StoreError: The spool or, for a file to be kept, the store cannot be written.
    """
    raise_if_ended(job)
    require_same_account(session, job)
    async with _DownloadTurn(session.download_slots) as turn:
        session.notify(SessionEvent.DOWNLOADING, job)
        for left in reversed(range(_INVALID_FILE_ATTEMPTS)):
            fetched = await _fetch(session, job, turn)
            try:
                checked = await _check(session, fetched, job)
            except VideoMismatch as error:
                # The file is whole: fetching it again would bring the same one.
                await _hold(session, job, fetched, HoldReason.WRONG_VIDEO, error.reasons)
            except InvalidVideo as error:
                if left or _is_short(fetched):
                    fetched.path.unlink(missing_ok=True)
                if not left:
                    await _give_up(session, job, fetched, error)
                logger.warning("shot %s: %s; fetching it again", job.shot.id, error)
            else:
                if checked.quality and checked.quality.retake_reasons:
                    await _reject(session, job, checked, checked.quality)
                session.notify(SessionEvent.DOWNLOADED, job)
                return checked
    raise AssertionError("unreachable: the last try returns or raises")


class _DownloadTurn:
    """A download's slot, which it can leave to others for a while."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._has_slot = False

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._has_slot = True
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._has_slot:
            self._slots.release()

    async def step_aside(self) -> None:
        """Let the downloads that wait go first, and return with a slot."""
        self._has_slot = False
        self._slots.release()
        await self._slots.acquire()
        self._has_slot = True


async def _fetch(session: Session, job: Job, turn: _DownloadTurn) -> Downloaded:
    path = spool_file(session, job)
    if (finished := await load_finished(path)) is not None:
        # The provider is not asked: it may have forgotten since what an earlier process has fetched.
        return finished
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
        path,
        client=session.download_client,
        policy=session.link_policy,
        expected_bytes=generation.result.file_size,
        refresh=refresh,
        step_aside=turn.step_aside,
        settings=_settings(session, job),
    )


def _settings(session: Session, job: Job) -> DownloadSettings:
    """Return the settings of a download; a file is waited for only shortly after its generation has completed."""
    age = (datetime.now(UTC) - (job.completed_at or job.updated_at)).total_seconds()
    return replace(
        DEFAULT_SETTINGS,
        unready_seconds=max(0.0, DEFAULT_SETTINGS.unready_seconds - age),
        min_bytes_per_second=session.settings.download_min_bytes_per_second,
    )


async def _retrieve(session: Session, job: Job) -> Generation:
    generation = await session.poller.poll_once(job.generation_id or "")
    await require_loss_proven(session, job, generation)
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
            await _hold_if_kept(session, job)
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


async def _check(session: Session, fetched: Downloaded, job: Job) -> Downloaded:
    """Measure a video and compare it with its shot; what is odd about it and accepted is noted.

    Raises:
        VideoMismatch: It plays and is not as requested.
        InvalidVideo: It cannot be played.
    """
    media = await decode_in_thread(probe, fetched.path)
    notes = list(_describe_oddities(fetched, media))
    mismatches = find_mismatches(media, job.shot, job.quality_policy)
    quality = await _assess(fetched, media, mismatches, job)
    if quality is None or not quality.retake_reasons:
        try:
            require_match([mismatch for mismatch in mismatches if not _is_gated(mismatch, job)], job.shot)
        except VideoMismatch as error:
            # One that was accepted once, and whose stored file is missing, is accepted as it was.
            was_accepted = job.asset is not None and job.asset.sha256 == fetched.sha256
            if not was_accepted and (job.on_mismatch or session.settings.on_mismatch) == "hold":
                raise
            notes += error.reasons
        for note in [*notes, *([quality.summary] if quality and quality.findings else [])]:
            logger.warning("shot %s: accepted with a note: %s", job.shot.id, note)
    return replace(fetched, media=media, notes=tuple(notes), quality=quality)


async def _assess(fetched: Downloaded, media: Media, mismatches: Sequence[Mismatch], job: Job) -> Quality | None:
    """Judge a video by the gates of its project; None where there are none, or it was stored before."""
    policy = job.quality_policy
    if policy is None:
        return None
    if job.asset is not None:
        # What was stored once, and is fetched again, is as it was.
        return job.asset.quality
    measures = None
    if policy.measures_content:
        measures = await decode_in_thread(measure_content, fetched.path, media, policy)
    return assess_quality(media, measures, mismatches, job.shot, policy)


def _is_gated(mismatch: Mismatch, job: Job) -> bool:
    """Return whether a quality gate decides about a mismatch, so that `on_mismatch` does not."""
    policy = job.quality_policy
    return policy is not None and mismatch.kind != "format" and policy.policy_of(mismatch.kind) is not None


def _describe_oddities(fetched: Downloaded, media: Media) -> Iterator[str]:
    if fetched.stated_bytes is not None:
        yield f"the provider stated {fetched.stated_bytes:,} bytes, the whole video has {fetched.bytes:,}"
    if media.trailing_bytes:
        yield f"{media.trailing_bytes:,} bytes behind the end of the video belong to no part of it"


def _is_short(fetched: Downloaded) -> bool:
    """Return whether a file is shorter than the provider stated: the rest may still come."""
    return fetched.stated_bytes is not None and fetched.bytes < fetched.stated_bytes


async def _give_up(session: Session, job: Job, fetched: Downloaded, error: InvalidVideo) -> NoReturn:
    """Leave a file that cannot be played to a later run where it is short, else keep it and hold its job."""
    if _is_short(fetched):
        raise IncompleteDownload(
            f"{error.message}; the provider stated {fetched.stated_bytes:,} bytes, {fetched.bytes:,} came"
        ) from error
    await _hold(session, job, fetched, HoldReason.UNPLAYABLE_VIDEO, (error.message,))


async def _reject(session: Session, job: Job, fetched: Downloaded, quality: Quality) -> NoReturn:
    """Keep a video that fails a quality gate, and end its job for another take; hold the job of the last attempt."""
    causes = quality.retake_reasons
    await session.ledger.jobs.record_quality(job.id, quality)
    if job.attempt >= job.max_attempts:
        attempts = f"it was attempt {job.attempt} of {job.max_attempts}"
        await _hold(session, job, fetched, HoldReason.WRONG_VIDEO, (*causes, attempts))
    kept = await _keep(session, job, fetched, causes)
    accept = command_line("resolve", job.id, "--accept", ledger=session.ledger.command_option)
    error = VideoRejected(
        f"shot {job.shot.id!r}: generation {job.generation_id} was attempt {job.attempt} of {job.max_attempts} and is"
        f" rejected: {'; '.join(causes)}. It is kept as {kept}; to take it as it is: {accept}",
        provider=job.provider,
        generation_id=job.generation_id,
    )
    session.notify(SessionEvent.REJECTED, job, str(error))
    await session.ledger.jobs.record_ended(job.id, State.LOST, error, actual_usd=None)
    session.notify(SessionEvent.ENDED, job, str(error))
    # Last: until the job has ended, the next run continues with this file.
    await asyncio.to_thread(fetched.path.unlink, missing_ok=True)
    raise error


async def _keep(session: Session, job: Job, fetched: Downloaded, causes: tuple[str, ...]) -> str:
    """Keep a file in the store as rejected, and return its URI."""
    await claim_store(session)
    return await keep_rejected(session.store, fetched, causes, draft=asset_draft(job, session.ledger.identity))


async def _hold(
    session: Session, job: Job, fetched: Downloaded, reason: HoldReason, causes: tuple[str, ...]
) -> NoReturn:
    """Keep a file that is not the requested video in the store, and hold its job."""
    kept = await _keep(session, job, fetched, causes)
    message = await _hold_kept(session, job, reason, kept, causes)
    # Last: until the job is held, the next run continues with this file.
    await asyncio.to_thread(fetched.path.unlink, missing_ok=True)
    raise HeldForReview(message)


async def _hold_if_kept(session: Session, job: Job) -> None:
    """Hold a job whose video is gone at its provider, and was kept by a process that died before it could hold it."""
    kept = await find_rejected(session.store, asset_draft(job, session.ledger.identity))
    if kept is not None:
        raise HeldForReview(await _hold_kept(session, job, HoldReason.WRONG_VIDEO, *kept))


async def _hold_kept(session: Session, job: Job, reason: HoldReason, kept: str, causes: tuple[str, ...]) -> str:
    message = hold_message(
        reason,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=job.generation_id,
        cause="; ".join(causes),
        file=kept,
    )
    await session.ledger.jobs.hold(job.id, message)
    return message


def spool_file(session: Session, job: Job) -> Path:
    """Return the file that the video of a job's generation is fetched into, in a folder of this user alone."""
    # By generation too: a job whose generation was lost may have got another one since.
    digest = hashlib.sha256((job.generation_id or "").encode()).hexdigest()
    return session.settings.spool / f"{job.id}.{digest[:_DIGEST_CHARS]}.mp4"
