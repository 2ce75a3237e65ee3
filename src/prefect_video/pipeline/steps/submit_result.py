"""Submit result: record the answer to a submit, or its absence, before anything else is done."""

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
from prefect_video.pipeline.steps.conflicts import find_other_job, hold_conflict, is_taken_by_twin
from prefect_video.pipeline.steps.end import end
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)

_KEEP_SECONDS: Final = 60.0
"""How long an answer is kept in memory for a ledger that cannot be written."""
_AGAIN_SECONDS: Final = 0.1
_AGAIN_LIMIT_SECONDS: Final = 5.0
_ENDED: Final = {Status.CANCELLED: State.CANCELLED, Status.FAILED: State.FAILED}


async def record_submit(session: Session, job: Job, generation: Generation, *, leave: bool = False) -> Job:
    """Record an accepted generation, before anything else that could fail.

    Args:
        session: The account that it was accepted at.
        job: The job that it was sent for.
        generation: The provider's answer.
        leave: Give up the ownership of the job in the same step.

    Returns:
        The job afterwards: another owner may have moved it meanwhile.

    Raises:
        HeldForReview: The answer names the generation of another job; this one is held and counts as spent.
        LedgerError: It could not be recorded; the message names the generation's id.
    """
    try:
        job = await _record_with_retries(session, job, generation, leave)
    except InvalidTransition as error:
        job = await _handle_lost_ownership(session, job, generation, error)
    else:
        session.fresh_generations.put(generation)
        session.notify(SessionEvent.SUBMITTED, job)
    finally:
        # After the ledger: counting a success is no reason to risk the id.
        await session.breaker.record(None, submit=True)
    return job


async def _record_with_retries(session: Session, job: Job, generation: Generation, leave: bool) -> Job:
    """Record a generation, again and again for a while: a busy ledger must not lose the id of what was paid."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + _KEEP_SECONDS
    delay = _AGAIN_SECONDS
    while True:
        try:
            return await session.ledger.jobs.record_submitted(job.id, generation, leave=leave)
        except LedgerUnavailable as error:
            message = (
                f"shot {job.shot.id!r}: {generation.provider} has accepted it as generation {generation.id}, which is"
                f" not on record: {error}"
            )
            if clock() + delay > give_up:
                # In the log as well: it is the only place that has the id now.
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
    """Handle a job that another owner has moved while it was sent."""
    owner = await session.ledger.jobs.find_generation(job.account, generation.id)
    if owner is None:
        await handle_orphan(session, job, generation)
    current = await session.ledger.jobs.get(job.id)
    is_own = current.state is State.SUBMITTING and current.owner == session.ledger.owner_id
    if owner is None or owner.id == job.id:
        return await session.ledger.jobs.record_unknown(job.id, error) if is_own else current
    if not is_own:
        await record_unnamed_orphan(session, job, generation.id, owner)
        return current
    if is_taken_by_twin(current, owner):
        # Two jobs and perhaps one generation: only the provider can say if there is a second one.
        return await session.ledger.jobs.record_unknown(job.id, error)
    raise await hold_conflict(session, job, generation.id, owner)


async def record_failure(session: Session, job: Job, error: BaseException) -> Job:
    """Record a submit that brought no generation, for its job and then for its account.

    Returns:
        The job afterwards.

    Raises:
        HeldForReview: The error names the generation of another job; this one is held and counts as spent.
        LedgerError: It could not be recorded.
    """
    try:
        match error:
            case GenerationFailed() if owner := await find_other_job(session, job, error.generation_id):
                raise await hold_conflict(session, job, str(error.generation_id), owner)
            case GenerationFailed():
                await end(session, job, State.FAILED, error)
            case RequestRejected() | ProviderUnavailable():
                await _return_or_release(session, job, error)
            case SubmitOutcomeUnknown():
                await session.ledger.jobs.record_unknown(job.id, error)
            case _:
                # Cancelled, or a defect of this package: the request may have left.
                await session.ledger.jobs.record_unknown(job.id, f"interrupted: {type(error).__name__}")
    except InvalidTransition as moved:
        # Another process took this one for dead and has moved the job meanwhile.
        logger.error("shot %s: %r came too late for its job: %s", job.shot.id, error, moved)
    finally:
        await session.breaker.record(error, submit=True)
    return await session.ledger.jobs.get(job.id)


async def _return_or_release(session: Session, job: Job, error: ProviderError) -> None:
    """Return a job to reserved where it may be sent again, else release it; nothing was accepted in either case."""
    if isinstance(error, RateLimited) and session.eases_off:
        # Before the job can be sent again, or the next send would meet the same limit.
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
    """Cancel a generation that belongs to no job, where that can still be done, and record it as a job of its own.

    One that cannot be cancelled is held for a human, with its id.

    Args:
        session: The account that it was accepted at.
        job: The job that it was sent for, when it was sent.
        generation: The provider's answer.

    Raises:
        LedgerError: The ledger cannot be used; its id is in the log.
    """
    happened = (
        f"shot {job.shot.id!r}: {generation.provider} has accepted generation {generation.id} for job {job.id},"
        " which another owner has moved on meanwhile"
    )
    logger.error("%s; cancelling it", happened)
    final = await _cancel_if_possible(session, generation)
    state = _ENDED.get(final.status, State.LOST)
    orphan_id = str(uuid.uuid4())
    hold_reason = hold_message(
        HoldReason.ORPHAN,
        job=orphan_id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=generation.id,
        cause=happened,
    )
    # One that was stopped and has no stated cost is free; of one that goes on, the reservation counts as spent.
    reported_usd = final.cost_usd if final.cost_usd is not None or state is State.LOST else Decimal(0)
    orphan = job.model_copy(
        update={
            "id": orphan_id,
            "state": state,
            "generation_id": generation.id,
            # It does not count as an attempt of the run.
            "flow_run_id": None,
            "submitted_at": await session.ledger.now(),
            "error_message": f"{happened}.",
            **cost_columns(job, reported_usd, session.settings.cost_bound),
        }
    )
    hold = with_dispute(orphan, hold_reason if state is State.LOST else None, session.ledger.command_option)
    orphan = orphan.model_copy(update={"hold_reason": hold})
    await session.ledger.jobs.record_orphan(orphan, f"{happened}; now {final.status.value}")
    session.notify(SessionEvent.ENDED, orphan, f"an orphan of job {job.id}, now {final.status.value}")


async def record_unnamed_orphan(session: Session, job: Job, generation_id: str, owner: Job) -> None:
    """Record an orphan whose id belongs to another job as a held job of its own, without the id.

    Args:
        session: The account that it was accepted at.
        job: The job that it was sent for, when it was sent.
        generation_id: The provider's id, which no two jobs can have.
        owner: The job that has it.

    Raises:
        LedgerError: The ledger cannot be used; the log has the details.
    """
    happened = (
        f"shot {job.shot.id!r}: {job.provider} has accepted a generation for job {job.id}, which another owner"
        f" has moved on meanwhile, and calls it {generation_id}, which belongs to job {owner.id}"
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


async def _cancel_if_possible(session: Session, generation: Generation) -> Generation:
    try:
        return await session.provider.cancel(generation.id)
    except ProviderError as error:
        # It goes on and is billed: as it has not ended, the caller holds it for a human.
        logger.error("generation %s could not be cancelled: %s", generation.id, error)
        return generation
