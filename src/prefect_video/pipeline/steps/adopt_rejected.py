"""Adoption of rejected videos: what was paid, is not as requested and is kept in the store, is not bought unasked.

A ledger that does not know the job of a kept video, being new or another one, gets a job that is held as in the ledger
that paid: a human accepts the video, or lets it be bought again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from prefect_video.errors import InvalidTransition
from prefect_video.ledger import (
    HoldReason,
    Job,
    JobRequest,
    Ledger,
    State,
    hold_message,
    job_from_values,
    row_from_request,
)
from prefect_video.session import Session
from prefect_video.storage import KeptVideo, LedgerReference, Store, read_kept

logger = logging.getLogger(__name__)


async def read_all_kept(store: Store, files: Collection[str]) -> list[KeptVideo]:
    """Read the records of the rejected videos in a listing; one that cannot be read, or has no file, is left out."""
    records = [uri for uri in files if uri.endswith(".rejected.json") and f"{uri.removesuffix('.json')}.mp4" in files]
    found = await asyncio.gather(*(read_kept(store, uri) for uri in records))
    return [kept for kept in found if kept is not None]


async def find_unknown(ledger: Ledger, kept: Sequence[KeptVideo]) -> list[KeptVideo]:
    """Return the rejected videos that no job of the ledger is about: neither their own, nor one of their generation."""
    if not kept:
        return []
    names = [video.draft.job_id for video in kept], [video.draft.generation_id for video in kept]
    jobs = await ledger.recovery.find_paid(*names)
    known = {name for job in jobs if job.generation_id for name in (job.id, job.generation_id)}
    return [video for video in kept if known.isdisjoint((video.draft.job_id, video.draft.generation_id))]


def choose_kept(job_request: JobRequest, kept: Sequence[KeptVideo]) -> KeptVideo | None:
    """Choose the newest rejected video of a request, that another ledger has paid for."""
    return max((video for video in kept if _is_of(video, job_request)), key=lambda video: video.kept_at, default=None)


async def adopt_kept(session: Session, job_request: JobRequest, video: KeptVideo) -> bool:
    """Add a held job for a rejected video; it costs nothing in this ledger."""
    job = held_job(session, job_request, video)
    if video.draft.ledger is not None:
        job = job.model_copy(update={"account": adopting_account(session, video.draft.ledger)})
    try:
        await session.ledger.recovery.adopt(job, f"adopted from {video.uri}, which was paid and is not as requested")
    except InvalidTransition as error:
        logger.info("%s/%s: not adopted: %s", job_request.project, job_request.shot.id, error)
        return False
    logger.warning("%s/%s: it was paid before, and is kept as %s", job_request.project, job_request.shot.id, video.uri)
    return True


def adopting_account(session: Session, reference: LedgerReference) -> str:
    """Return the id of the account that a video of another ledger is recorded under.

    One that the account in use has made under another name is recorded under the name of today. It costs nothing here,
    so that no limit of the other name has to be moved with it.
    """
    account = session.provider.account
    return account.id if account.has_made(reference.account, reference.key_fingerprint) else reference.account


def held_job(session: Session, job_request: JobRequest, video: KeptVideo) -> Job:
    """Build the held job of a rejected video, by which it is found where it lies."""
    draft, reference = video.draft, video.draft.ledger
    assert reference is not None
    values = row_from_request(job_request, State.COMPLETED, 1, None, video.kept_at)
    return job_from_values(
        values
        | {
            "id": draft.job_id,
            "project": draft.project,
            "shot": reference.shot,
            "model": reference.shot.model,
            "take": draft.take,
            "provider": draft.provider,
            "account": reference.account,
            "credentials": reference.credentials,
            "key_fingerprint": reference.key_fingerprint,
            "environment": reference.environment,
            "generation_id": draft.generation_id,
            "reserved_usd": None,
            "actual_usd": Decimal(0),
            "flow_run_id": None,
            "submitted_at": video.kept_at,
            "completed_at": video.kept_at,
            "hold_reason": hold_message(
                HoldReason.WRONG_VIDEO,
                job=draft.job_id,
                shot=draft.shot_id,
                ledger=session.ledger.command_option,
                generation=draft.generation_id,
                cause="; ".join(video.reasons),
                file=video.uri,
            ),
        }
    )


def _is_of(video: KeptVideo, job_request: JobRequest) -> bool:
    reference = video.draft.ledger
    if reference is None or video.draft.fingerprint != job_request.fingerprint:
        return False
    if reference.environment != job_request.environment:
        return False
    oldest = None if job_request.ttl_seconds is None else datetime.now(UTC) - timedelta(seconds=job_request.ttl_seconds)
    return oldest is None or video.kept_at >= oldest
