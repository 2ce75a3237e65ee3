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
    IllegalTransition,
    LedgerUnavailable,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    SubmitUnknown,
)
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Entry, HoldReason, State, hold_message
from prefect_video.ledger.cost_bound import cost_columns, with_dispute
from prefect_video.pipeline.steps.conflicts import find_other_row, hold_conflict, is_taken_by_twin
from prefect_video.pipeline.steps.end import end
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)

_KEEP_SECONDS: Final = 60.0
"""How long an answer is kept ready for a ledger that cannot be written."""
_AGAIN_SECONDS: Final = 0.1
_AGAIN_LIMIT_SECONDS: Final = 5.0
_ENDED: Final = {Status.CANCELLED: State.CANCELLED, Status.FAILED: State.FAILED}


async def record(studio: Studio, entry: Entry, generation: Generation) -> Entry:
    """Writes down what was accepted, before anything else is done that could fail.

    Returns:
        The row as it then stands: somebody else may have carried it on meanwhile.

    Raises:
        NeedsAttention: The answer names the generation of another row; this one is held and counts as spent.
        LedgerError: It could not be written down, and the message names its id.
    """
    try:
        entry = await _recorded(studio, entry, generation)
    except IllegalTransition as error:
        entry = await _overtaken(studio, entry, generation, error)
    else:
        studio.fresh_generations.put(generation)
        studio.tell(SessionEvent.SUBMITTED, entry)
    finally:
        await studio.breaker.note(None, submit=True)
    return entry


async def _recorded(studio: Studio, entry: Entry, generation: Generation) -> Entry:
    """A ledger that is busy or away for a while must not cost us the id of what was paid."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + _KEEP_SECONDS
    delay = _AGAIN_SECONDS
    while True:
        try:
            return await studio.ledger.record_submitted(entry.id, generation)
        except LedgerUnavailable as error:
            message = (
                f"shot {entry.shot.id!r}: {generation.provider} has accepted it as generation {generation.id}, which is"
                f" not on record: {error}"
            )
            if clock() + delay > give_up:
                logger.error("%s", message)
                raise LedgerUnavailable(
                    hold_message(
                        HoldReason.NOT_ON_RECORD,
                        job=entry.id,
                        shot=entry.shot.id,
                        ledger=studio.ledger.command_option,
                        generation=generation.id,
                        cause=message,
                    )
                ) from error
            logger.warning("%s; writing it again in %.1f s", message, delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, _AGAIN_LIMIT_SECONDS)


async def _overtaken(studio: Studio, entry: Entry, generation: Generation, error: IllegalTransition) -> Entry:
    """Handle a row that another owner has moved while it was sent."""
    owner = await studio.ledger.find_generation(entry.account, generation.id)
    if owner is None:
        await handle_orphan(studio, entry, generation)
    current = await studio.ledger.get(entry.id)
    is_ours = current.state is State.SUBMITTING and current.owner == studio.ledger.owner_id
    if owner is None or owner.id == entry.id:
        return await studio.ledger.record_unknown(entry.id, error) if is_ours else current
    if not is_ours:
        await record_unnamed_orphan(studio, entry, generation.id, owner)
        return current
    if is_taken_by_twin(current, owner):
        # There are two rows and perhaps one generation now: whether there is a second one, the provider must tell.
        return await studio.ledger.record_unknown(entry.id, error)
    raise await hold_conflict(studio, entry, generation.id, owner)


async def record_failure(studio: Studio, entry: Entry, error: BaseException) -> Entry:
    """Writes down what a submit that brought no generation means for its row, and then for its account.

    Returns:
        The row as it then stands.

    Raises:
        NeedsAttention: The error names the generation of another row; this one is held and counts as spent.
        LedgerError: It could not be written down.
    """
    try:
        match error:
            case GenerationFailed() if owner := await find_other_row(studio, entry, error.generation_id):
                raise await hold_conflict(studio, entry, str(error.generation_id), owner)
            case GenerationFailed():
                await end(studio, entry, State.FAILED, error)
            case RequestRefused() | ProviderUnavailable():
                await _put_back(studio, entry, error)
            case SubmitUnknown():
                await studio.ledger.record_unknown(entry.id, error)
            case _:
                await studio.ledger.record_unknown(entry.id, f"interrupted: {type(error).__name__}")
    except IllegalTransition as moved:
        # Whoever took us for dead has carried the row on meanwhile.
        logger.error("shot %s: %r came too late for its row: %s", entry.shot.id, error, moved)
    finally:
        await studio.breaker.note(error, submit=True)
    return await studio.ledger.get(entry.id)


async def _put_back(studio: Studio, entry: Entry, error: ProviderError) -> None:
    if isinstance(error, RateLimited):
        await studio.ledger.throttle(entry.account, slots=studio.account_slots)
    if isinstance(error, QuotaExhausted) and error.retry_after:
        await studio.ledger.record_quota(entry.account, datetime.now(UTC) + timedelta(seconds=error.retry_after))
    if error.retryable:
        await studio.ledger.return_to_reserved(entry.id, str(error))
    else:
        entry = await studio.ledger.release(entry.id, error)
        studio.tell(SessionEvent.ENDED, entry, str(error))


async def handle_orphan(studio: Studio, entry: Entry, generation: Generation) -> None:
    """Cancels a generation that no row owns, where that can still be done, and gives it a row of its own in the books.

    One that cannot be cancelled is held for a human, with its id.

    Args:
        studio: Where it was accepted.
        entry: The row that it was sent for, as it was then.
        generation: What the provider answered.

    Raises:
        LedgerError: The ledger cannot be used; its id is in the log.
    """
    happened = (
        f"shot {entry.shot.id!r}: {generation.provider} has accepted generation {generation.id} for row {entry.id},"
        " which somebody else has carried on meanwhile"
    )
    logger.error("%s; cancelling it", happened)
    told = await _cancelled(studio, generation)
    state = _ENDED.get(told.status, State.LOST)
    stray_id = str(uuid.uuid4())
    attention = hold_message(
        HoldReason.ORPHAN,
        job=stray_id,
        shot=entry.shot.id,
        ledger=studio.ledger.command_option,
        generation=generation.id,
        cause=happened,
    )
    reported_usd = told.cost_usd if told.cost_usd is not None or state is State.LOST else Decimal(0)
    stray = entry.model_copy(
        update={
            "id": stray_id,
            "state": state,
            "generation_id": generation.id,
            # No attempt of its run: it took the place of none.
            "flow_run_id": None,
            "submitted_at": await studio.ledger.now(),
            "error_message": f"{happened}.",
            **cost_columns(entry, reported_usd, studio.settings.cost_bound),
        }
    )
    hold = with_dispute(stray, attention if state is State.LOST else None, studio.ledger.command_option)
    stray = stray.model_copy(update={"attention": hold})
    await studio.ledger.record_stray(stray, f"{happened}; now {told.status.value}")
    studio.tell(SessionEvent.ENDED, stray, f"a stray of row {entry.id}, now {told.status.value}")


async def record_unnamed_orphan(studio: Studio, entry: Entry, generation_id: str, owner: Entry) -> None:
    """Give what was accepted for a row that has moved on a row of its own, held, where its id is that of another row.

    Args:
        studio: Where it was accepted.
        entry: The row that it was sent for, as it was then.
        generation_id: The provider's id, which cannot stand in two rows.
        owner: The row that has it.

    Raises:
        LedgerError: The ledger cannot be used; what happened is in the log.
    """
    happened = (
        f"shot {entry.shot.id!r}: {entry.provider} has accepted a generation for row {entry.id}, which another owner"
        f" has carried on meanwhile, and calls it {generation_id}, which belongs to row {owner.id}"
    )
    logger.error("%s", happened)
    orphan_id = str(uuid.uuid4())
    orphan = entry.model_copy(
        update={
            "id": orphan_id,
            "state": State.LOST,
            "generation_id": None,
            "flow_run_id": None,
            "submitted_at": await studio.ledger.now(),
            "error_message": f"{happened}.",
            "attention": hold_message(
                HoldReason.ORPHAN_UNNAMED,
                job=orphan_id,
                shot=entry.shot.id,
                ledger=studio.ledger.command_option,
                cause=happened,
            ),
        }
    )
    await studio.ledger.record_stray(orphan, happened)
    studio.tell(SessionEvent.ENDED, orphan, happened)


async def _cancelled(studio: Studio, generation: Generation) -> Generation:
    try:
        return await studio.provider.cancel(generation.id)
    except ProviderError as error:
        logger.error("generation %s could not be cancelled: %s", generation.id, error)
        return generation
