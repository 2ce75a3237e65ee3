"""End: record that a job ended without a video, with its cost, and raise that to the run that needs the video."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from prefect_video.errors import (
    GenerationBlocked,
    GenerationCancelled,
    GenerationEnded,
    GenerationExpired,
    GenerationFailed,
    GenerationInvalid,
    GenerationLost,
    HeldForReview,
    InvalidTransition,
    VideoRejected,
)
from prefect_video.generations import Generation
from prefect_video.ledger import UNFINISHED, HoldReason, Job, State, hold_message
from prefect_video.session import Session, SessionEvent

ERRORS: Final[Mapping[State, type[GenerationEnded]]] = MappingProxyType(
    {
        State.FAILED: GenerationFailed,
        State.CANCELLED: GenerationCancelled,
        State.EXPIRED: GenerationExpired,
        State.LOST: GenerationLost,
        # The reservation was given up before it was sent, by a cancel command for example.
        State.RELEASED: GenerationCancelled,
    }
)
"""Error class for each state of a job that ended without a video."""


async def end(
    session: Session, job: Job, state: State, error: GenerationEnded, *, generation: Generation | None = None
) -> Job:
    """End a job without a video and settle its cost.

    It costs what the provider reports. Where it reports nothing, an outcome that is known to be free costs nothing,
    unless the request was at fault; after any other the reservation counts as spent. A lost or expired one was made,
    and is held for a human unless policy says otherwise.
    """
    actual_usd = generation.cost_usd if generation else None
    of_request = generation is not None and generation.fault is not None and generation.fault.of_request
    if actual_usd is None and not of_request and state.value in session.provider.capabilities.free_outcomes:
        actual_usd = Decimal(0)
    hold_reason = None
    if state in (State.LOST, State.EXPIRED) and session.settings.on_lost == "hold":
        hold_reason = hold_message(
            HoldReason.VIDEO_GONE,
            job=job.id,
            shot=job.shot.id,
            ledger=session.ledger.command_option,
            cause=str(error),
        )
    try:
        job = await session.ledger.jobs.record_ended(
            job.id,
            state,
            error,
            actual_usd=actual_usd,
            hold_reason=hold_reason,
            bound=session.settings.cost_bound,
        )
    except InvalidTransition:
        # Another process recorded the same end first, a cancel command for example.
        job = await session.ledger.jobs.get(job.id)
        if job.state in UNFINISHED:
            raise
        return job
    session.notify(SessionEvent.ENDED, job, str(error))
    return job


def error_of(job: Job) -> type[GenerationEnded]:
    """Return the error class of a job that ended without a video; for a failure, the recorded one."""
    if job.is_rejected:
        return VideoRejected
    kinds = {kind.__name__: kind for kind in (GenerationBlocked, GenerationInvalid)}
    if job.state is State.FAILED and job.error_type in kinds:
        return kinds[job.error_type]
    return ERRORS.get(job.state, GenerationFailed)


def raise_if_ended(job: Job) -> Job:
    """Return a job, unless it has ended without a video: by a cancel command, for example, while a step waited.

    Raises:
        GenerationEnded: It has ended; the class says how.
    """
    if job.state not in ERRORS:
        return job
    raise error_of(job)(
        f"shot {job.shot.id!r}: {job.error_message or job.state}",
        provider=job.provider,
        generation_id=job.generation_id,
    )


def require_same_account(session: Session, job: Job) -> None:
    """Refuse to act on a job at another account: its "not found" proves nothing, and its list is of other jobs.

    What was sent with a key that the session has is of its account, under whatever name it was booked then.

    Raises:
        HeldForReview: The job belongs to another account than the session's; nothing was requested or written.
    """
    account = session.provider.account
    # What is reserved only was sent with no key.
    if account.has_made(job.account, None if job.state is State.RESERVED else job.key_fingerprint):
        return
    raise HeldForReview(
        hold_message(
            HoldReason.OTHER_ACCOUNT,
            job=job.id,
            shot=job.shot.id,
            ledger=session.ledger.command_option,
            generation=job.generation_id,
            what=_describe(job),
            account=job.account,
            credentials=job.credentials,
            used_account=account.id,
            used_credentials=session.credentials,
        )
    )


def _describe(job: Job) -> str:
    if job.generation_id:
        return f"generation {job.generation_id}"
    return "a reservation" if job.state is State.RESERVED else "an unanswered submit"
