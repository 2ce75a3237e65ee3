"""End: records that a row ended without a video, with its cost, and raises that to the run that needs the video."""

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
        # Somebody gave the reservation up before it was sent.
        State.RELEASED: GenerationCancelled,
    }
)
"""What a row that ended without a video is raised as."""


async def end(
    session: Session, job: Job, state: State, error: GenerationEnded, *, generation: Generation | None = None
) -> Job:
    """Ends a row and settles its cost.

    It costs what the provider says. Where it says nothing, an end that is known to be free costs nothing, unless the
    request was at fault; after any other the reservation counts as spent. One that is lost or expired was made, and is
    held for a human unless policy says otherwise.
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
        # Somebody else saw the same end first, a cancel command for example.
        job = await session.ledger.jobs.get(job.id)
        if job.state in UNFINISHED:
            raise
        return job
    session.notify(SessionEvent.ENDED, job, str(error))
    return job


def error_of(job: Job) -> type[GenerationEnded]:
    """What a row that ended without a video is raised as: for a failure, the very kind that was written down."""
    kinds = {kind.__name__: kind for kind in (GenerationBlocked, GenerationInvalid)}
    if job.state is State.FAILED and job.error_type in kinds:
        return kinds[job.error_type]
    return ERRORS.get(job.state, GenerationFailed)


def raise_if_ended(job: Job) -> Job:
    """The row, unless it has ended without a video: by a cancel command, for example, while a step was waiting.

    Raises:
        GenerationEnded: How it ended.
    """
    if job.state not in ERRORS:
        return job
    raise error_of(job)(
        f"shot {job.shot.id!r}: {job.error_message or job.state}",
        provider=job.provider,
        generation_id=job.generation_id,
    )


def require_same_account(session: Session, job: Job) -> None:
    """Refuses to ask another account about a row: its "not found" says nothing, and what it lists is not ours.

    Raises:
        HeldForReview: The session's key is not the one that the row was sent with; nothing was asked or written.
    """
    account = session.provider.account.id
    if job.account == account:
        return
    raise HeldForReview(
        hold_message(
            HoldReason.OTHER_ACCOUNT,
            job=job.id,
            shot=job.shot.id,
            ledger=session.ledger.command_option,
            generation=job.generation_id,
            what=f"generation {job.generation_id}" if job.generation_id else "an unanswered submit",
            account=job.account,
            credentials=job.credentials,
            used_account=account,
            used_credentials=session.credentials,
        )
    )
