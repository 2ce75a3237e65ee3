"""Recording: what the answer to a submit, or its absence, means for the row; on record before anything else is done."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
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
from prefect_video.generations import Generation
from prefect_video.ledger import Entry, State
from prefect_video.steps.conflicts import find_other_row, hold_conflict, is_taken_by_twin
from prefect_video.steps.ending import end
from prefect_video.steps.straying import record_unnamed_stray, settle_stray
from prefect_video.studio import Studio

logger = logging.getLogger(__name__)

_KEEP_SECONDS: Final = 60.0
"""How long an answer is kept ready for a ledger that cannot be written."""
_AGAIN_SECONDS: Final = 0.1
_AGAIN_LIMIT_SECONDS: Final = 5.0


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
        studio.last_told[generation.id] = generation
        studio.tell("submitted", entry)
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
                    f"{message}. Once the ledger can be written, run:"
                    f" prefect-video resolve {entry.id} --generation {generation.id}"
                ) from error
            logger.warning("%s; writing it again in %.1f s", message, delay)
        await asyncio.sleep(delay)
        delay = min(delay * 2, _AGAIN_LIMIT_SECONDS)


async def _overtaken(studio: Studio, entry: Entry, generation: Generation, error: IllegalTransition) -> Entry:
    """What becomes of a row that somebody else has moved while it was sent."""
    owner = await studio.ledger.find_generation(entry.account, generation.id)
    if owner is None:
        await settle_stray(studio, entry, generation)
    current = await studio.ledger.get(entry.id)
    is_ours = current.state is State.SUBMITTING and current.owner == studio.ledger.owner_id
    if owner is None or owner.id == entry.id:
        return await studio.ledger.record_unknown(entry.id, error) if is_ours else current
    if not is_ours:
        await record_unnamed_stray(studio, entry, generation.id, owner)
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
        studio.tell("ended", entry, str(error))
