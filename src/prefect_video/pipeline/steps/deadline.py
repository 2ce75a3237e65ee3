"""Deadline policy: leave, hold or cancel a generation that has not ended in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video.errors import (
    DeadlineExceeded,
    DownloadError,
    HeldForReview,
    LinkExpired,
    ProviderError,
    VideoError,
)
from prefect_video.generations import Generation
from prefect_video.ledger import HoldReason, Job, State, hold_message
from prefect_video.session import Session

GRACE_PERIOD: Final = timedelta(days=1)
"""How long after its deadline a generation is left to later collections; then it is held for a human."""


def is_past_deadline(job: Job) -> bool:
    """Return whether a job's generation should have ended by now."""
    return job.deadline_at is not None and job.deadline_at <= datetime.now(UTC)


def hold_message_if_stuck(session: Session, job: Job, error: VideoError) -> str | None:
    """Build the hold message of a paid job that no later collection will finish by itself; None while one may.

    Args:
        session: The session of the job.
        job: A job that could not be finished now.
        error: The reason.
    """
    now = datetime.now(UTC)
    is_late = now > (job.deadline_at or job.created_at) + GRACE_PERIOD
    is_late &= isinstance(error, ProviderError | DownloadError | DeadlineExceeded)
    # The download has refreshed the link already, and the provider had no other one.
    is_dead = isinstance(error, LinkExpired) and job.expires_at is not None and job.expires_at < now
    if job.state is State.SUBMITTED and is_late:
        return _not_ended(session, job, "" if isinstance(error, DeadlineExceeded) else f" The last look: {error}.")
    if job.state is State.COMPLETED and (is_late or is_dead):
        return hold_message(
            HoldReason.VIDEO_UNREACHABLE,
            job=job.id,
            shot=job.shot.id,
            ledger=session.ledger.command_option,
            generation=job.generation_id,
            cause=str(error),
        )
    return None


async def apply_deadline_policy(session: Session, job: Job, passed: DeadlineExceeded) -> Generation:
    """Apply the session's deadline policy to an overdue generation.

    Returns:
        The ended generation, where cancelling ended it or found it ended.

    Raises:
        DeadlineExceeded: It is left running, by policy or because it can no longer be cancelled.
        HeldForReview: It is held for a human.
    """
    match session.settings.on_deadline:
        case "hold":
            await _hold(session, job, passed)
        case "cancel" if session.provider.capabilities.can_cancel:
            return await _cancel(session, job, passed)
    raise passed


async def _hold(session: Session, job: Job, passed: DeadlineExceeded) -> None:
    message = _not_ended(session, job)
    await session.ledger.jobs.hold(job.id, message)
    raise HeldForReview(message) from passed


async def _cancel(session: Session, job: Job, passed: DeadlineExceeded) -> Generation:
    try:
        generation = await session.provider.cancel(job.generation_id or "")
    except ProviderError as error:
        raise passed from error
    if not generation.status.ended:
        raise passed
    return generation


def _not_ended(session: Session, job: Job, cause: str = "") -> str:
    return hold_message(
        HoldReason.PAST_DEADLINE,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=job.generation_id,
        deadline=f"{job.deadline_at:%Y-%m-%d %H:%M:%S}",
        cause=cause,
    )
