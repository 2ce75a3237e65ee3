"""Straying: what becomes of a generation that was accepted for a row which had gone on without it.

A process that was paused for long, with its machine for example, is taken for dead; when it wakes up and sends, what
it sends has been sent by another in its place.
"""

from __future__ import annotations

import logging
import uuid
from decimal import Decimal

from prefect_video.errors import ProviderError
from prefect_video.generations import Generation, Status
from prefect_video.ledger import Entry, State
from prefect_video.studio import Studio

logger = logging.getLogger(__name__)

_ENDED = {Status.CANCELLED: State.CANCELLED, Status.FAILED: State.FAILED}


async def settle_stray(studio: Studio, entry: Entry, generation: Generation) -> None:
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
    attention = (
        f"{happened}. It could not be cancelled and may be billed. Look at the provider's console, then run:"
        f" prefect-video resolve {stray_id} --generation {generation.id} (to fetch it, once nothing else of this shot"
        f" is under way) or --give-up"
    )
    stray = entry.model_copy(
        update={
            "id": stray_id,
            "state": state,
            "generation_id": generation.id,
            # No attempt of its run: it took the place of none.
            "flow_run_id": None,
            "actual_usd": told.cost_usd if told.cost_usd is not None or state is State.LOST else Decimal(0),
            "submitted_at": await studio.ledger.now(),
            "error_message": f"{happened}.",
            "attention": attention if state is State.LOST else None,
        }
    )
    await studio.ledger.record_stray(stray, f"{happened}; now {told.status.value}")
    studio.tell("ended", stray, f"a stray of row {entry.id}, now {told.status.value}")


async def record_unnamed_stray(studio: Studio, entry: Entry, generation_id: str, owner: Entry) -> None:
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
    stray_id = str(uuid.uuid4())
    stray = entry.model_copy(
        update={
            "id": stray_id,
            "state": State.LOST,
            "generation_id": None,
            "flow_run_id": None,
            "submitted_at": await studio.ledger.now(),
            "error_message": f"{happened}.",
            "attention": f"{happened}. It counts as spent. Look at the provider's console, then run:"
            f" prefect-video resolve {stray_id} --give-up",
        }
    )
    await studio.ledger.record_stray(stray, happened)
    studio.tell("ended", stray, happened)


async def _cancelled(studio: Studio, generation: Generation) -> Generation:
    try:
        return await studio.provider.cancel(generation.id)
    except ProviderError as error:
        logger.error("generation %s could not be cancelled: %s", generation.id, error)
        return generation
