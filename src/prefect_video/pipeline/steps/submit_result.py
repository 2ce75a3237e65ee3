"""Recording: what the answer to a submit, or its absence, means for the row; on record before anything else is done."""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from prefect_video.errors import (
    GenerationFailed,
    InvalidTransition,
    LedgerUnavailable,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation, Status
from prefect_video.ledger import HoldReason, Job, State, cost_columns, hold_message, with_dispute
from prefect_video.pipeline.steps.conflicts import find_other_row, hold_conflict, is_taken_by_twin
from prefect_video.pipeline.steps.end import end
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)

_KEEP_SECONDS: Final = 60.0
"""How long an answer is kept ready for a ledger that cannot be written."""
_AGAIN_SECONDS: Final = 0.1
_AGAIN_LIMIT_SECONDS: Final = 5.0
_ENDED: Final = {Status.CANCELLED: State.CANCELLED, Status.FAILED: State.FAILED}


async def record_submit(session: Session, job: Job, generation: Generation) -> Job:
    """Writes down what was accepted, before anything else is done that could fail.

    Returns:
        The row as it then stands: somebody else may have carried it on meanwhile.

    Raises:
        HeldForReview: The answer names the generation of another row; this one is held and counts as spent.
        LedgerError: It could not be written down, and the message names its id.
    """
    try:
        job = await _recorded(session, job, generation)
    except InvalidTransition as error:
        job = await _handle_lost_ownership(session, job, generation, error)
    else:
        session.fresh_generations.put(generation)
        session.notify(SessionEvent.SUBMITTED, job)
    finally:
        await session.breaker.record(None, submit=True)
    return job


async def _recorded(session: Session, job: Job, generation: Generation) -> Job:
    """A ledger that is busy or away for a while must not cost us the id of what was paid."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + _KEEP_SECONDS
    delay = _AGAIN_SECONDS
    while True:
        try:
            return await session.ledger.jobs.record_submitted(job.id, generation)
        except LedgerUnavailable as error:
            message = (
                f"shot {job.shot.id!r}: {generation.provider} has accepted it as generation {generation.id}, which is"
                f" not on record: {error}"
            )
            if clock() + delay > give_up:
                logger.error("%s", message)
                raise LedgerUnavailable(
                    hold_message(
                        HoldReason.NOT_ON_RECORD,
                        job=job.id,
                        shot=job.shot.id,
                        ledger=session.ledger.command_option,
                        generation=generation.id,
                        cause=message,
                    )
                ) from error
            logger.warning("%s; writing it again in %.1f s", message, delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, _AGAIN_LIMIT_SECONDS)


async def _handle_lost_ownership(session: Session, job: Job, generation: Generation, error: InvalidTransition) -> Job:
    """Handle a row that another owner has moved while it was sent."""
    owner = await session.ledger.jobs.find_generation(job.account, generation.id)
    if owner is None:
        await handle_orphan(session, job, generation)
    current = await session.ledger.jobs.get(job.id)
    is_ours = current.state is State.SUBMITTING and current.owner == session.ledger.owner_id
    if owner is None or owner.id == job.id:
        return await session.ledger.jobs.record_unknown(job.id, error) if is_ours else current
    if not is_ours:
        await record_unnamed_orphan(session, job, generation.id, owner)
        return current
    if is_taken_by_twin(current, owner):
        # There are two rows and perhaps one generation now: whether there is a second one, the provider must tell.
        return await session.ledger.jobs.record_unknown(job.id, error)
    raise await hold_conflict(session, job, generation.id, owner)


async def record_failure(session: Session, job: Job, error: BaseException) -> Job:
    """Writes down what a submit that brought no generation means for its row, and then for its account.

    Returns:
        The row as it then stands.

    Raises:
        HeldForReview: The error names the generation of another row; this one is held and counts as spent.
        LedgerError: It could not be written down.
    """
    try:
        match error:
            case GenerationFailed() if owner := await find_other_row(session, job, error.generation_id):
                raise await hold_conflict(session, job, str(error.generation_id), owner)
            case GenerationFailed():
                await end(session, job, State.FAILED, error)
            case RequestRejected() | ProviderUnavailable():
                await _return_or_release(session, job, error)
            case SubmitOutcomeUnknown():
                await session.ledger.jobs.record_unknown(job.id, error)
            case _:
                await session.ledger.jobs.record_unknown(job.id, f"interrupted: {type(error).__name__}")
    except InvalidTransition as moved:
        # Whoever took us for dead has carried the row on meanwhile.
        logger.error("shot %s: %r came too late for its row: %s", job.shot.id, error, moved)
    finally:
        await session.breaker.record(error, submit=True)
    return await session.ledger.jobs.get(job.id)


async def _return_or_release(session: Session, job: Job, error: ProviderError) -> None:
    if isinstance(error, RateLimited):
        await session.ledger.accounts.reduce_slots(job.account, slots=session.account_slots)
    if isinstance(error, QuotaExhausted) and error.retry_after:
        await session.ledger.accounts.record_quota(
            job.account, datetime.now(UTC) + timedelta(seconds=error.retry_after)
        )
    if error.retryable:
        await session.ledger.jobs.return_to_reserved(job.id, str(error))
    else:
        job = await session.ledger.jobs.release_reservation(job.id, error)
        session.notify(SessionEvent.ENDED, job, str(error))


async def handle_orphan(session: Session, job: Job, generation: Generation) -> None:
    """Cancels a generation that no row owns, where that can still be done, and gives it a row of its own in the books.

    One that cannot be cancelled is held for a human, with its id.

    Args:
        session: Where it was accepted.
        job: The row that it was sent for, as it was then.
        generation: What the provider answered.

    Raises:
        LedgerError: The ledger cannot be used; its id is in the log.
    """
    happened = (
        f"shot {job.shot.id!r}: {generation.provider} has accepted generation {generation.id} for row {job.id},"
        " which somebody else has carried on meanwhile"
    )
    logger.error("%s; cancelling it", happened)
    told = await _cancelled(session, generation)
    state = _ENDED.get(told.status, State.LOST)
    stray_id = str(uuid.uuid4())
    hold_reason = hold_message(
        HoldReason.ORPHAN,
        job=stray_id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=generation.id,
        cause=happened,
    )
    reported_usd = told.cost_usd if told.cost_usd is not None or state is State.LOST else Decimal(0)
    stray = job.model_copy(
        update={
            "id": stray_id,
            "state": state,
            "generation_id": generation.id,
            # No attempt of its run: it took the place of none.
            "flow_run_id": None,
            "submitted_at": await session.ledger.now(),
            "error_message": f"{happened}.",
            **cost_columns(job, reported_usd, session.settings.cost_bound),
        }
    )
    hold = with_dispute(stray, hold_reason if state is State.LOST else None, session.ledger.command_option)
    stray = stray.model_copy(update={"hold_reason": hold})
    await session.ledger.jobs.record_orphan(stray, f"{happened}; now {told.status.value}")
    session.notify(SessionEvent.ENDED, stray, f"a stray of row {job.id}, now {told.status.value}")


async def record_unnamed_orphan(session: Session, job: Job, generation_id: str, owner: Job) -> None:
    """Give what was accepted for a row that has moved on a row of its own, held, where its id is that of another row.

    Args:
        session: Where it was accepted.
        job: The row that it was sent for, as it was then.
        generation_id: The provider's id, which cannot stand in two rows.
        owner: The row that has it.

    Raises:
        LedgerError: The ledger cannot be used; what happened is in the log.
    """
    happened = (
        f"shot {job.shot.id!r}: {job.provider} has accepted a generation for row {job.id}, which another owner"
        f" has carried on meanwhile, and calls it {generation_id}, which belongs to row {owner.id}"
    )
    logger.error("%s", happened)
    orphan_id = str(uuid.uuid4())
    orphan = job.model_copy(
        update={
            "id": orphan_id,
            "state": State.LOST,
            "generation_id": None,
            "flow_run_id": None,
            "submitted_at": await session.ledger.now(),
            "error_message": f"{happened}.",
            "hold_reason": hold_message(
                HoldReason.ORPHAN_UNNAMED,
                job=orphan_id,
                shot=job.shot.id,
                ledger=session.ledger.command_option,
                cause=happened,
            ),
        }
    )
    await session.ledger.jobs.record_orphan(orphan, happened)
    session.notify(SessionEvent.ENDED, orphan, happened)


async def _cancelled(session: Session, generation: Generation) -> Generation:
    try:
        return await session.provider.cancel(generation.id)
    except ProviderError as error:
        logger.error("generation %s could not be cancelled: %s", generation.id, error)
        return generation
