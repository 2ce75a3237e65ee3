"""Conflicts: a provider names a generation for one row that the ledger has given to another.

It happens where a server's ids begin anew after a restart. A submit was accepted and may be billed, so that its row is
never sent again by itself: it counts as spent and is held for a human.
"""

from __future__ import annotations

import logging

from prefect_video.errors import NeedsAttention
from prefect_video.ledger import Entry, HoldReason, State, hold_message
from prefect_video.providers.matching import Match, match_prompt
from prefect_video.session.session import SessionEvent, Studio

logger = logging.getLogger(__name__)


async def find_other_row(studio: Studio, entry: Entry, generation_id: str | None) -> Entry | None:
    """Return the row that a generation belongs to, if that is not the row given."""
    if generation_id is None:
        return None
    owner = await studio.ledger.find_generation(entry.account, generation_id)
    return None if owner is None or owner.id == entry.id else owner


def is_taken_by_twin(entry: Entry, owner: Entry) -> bool:
    """Return whether a row of the same words has taken a submit's generation while that was waiting for its answer.

    Two requests that are alike in everything cannot be told apart where no key is echoed: then a row whose own submit
    was not answered may take the other's generation, and it is the other's that must still be looked for.
    """
    return (
        match_prompt(entry.shot.prompt, owner.shot.prompt) is Match.SAME
        and owner.unknown_at is not None
        and owner.submitted_at is not None
        and entry.sent_at is not None
        and owner.submitted_at >= entry.sent_at
    )


async def hold_conflict(studio: Studio, entry: Entry, generation_id: str, owner: Entry) -> NeedsAttention:
    """Hold a row whose generation belongs to another row; it counts as spent.

    Args:
        studio: Where it was submitted.
        entry: The row that was submitted, or whose key the generation echoes.
        generation_id: The provider's id.
        owner: The row that the ledger has given it to.

    Returns:
        The error to raise, with both rows and the ways out.

    Raises:
        LedgerError: It could not be written down.
    """
    conflict = (
        f"shot {entry.shot.id!r}: {entry.provider} says that row {entry.id} is its generation {generation_id}, which"
        f" belongs to row {owner.id} (shot {owner.shot.id!r} of project {owner.project!r}). Its ids may have begun anew"
        " after a restart. The submit was accepted and counts as spent"
    )
    message = hold_message(
        HoldReason.ID_CONFLICT,
        job=entry.id,
        shot=entry.shot.id,
        ledger=studio.ledger.command_option,
        generation=generation_id,
        cause=conflict,
    )
    logger.error("%s", message)
    entry = await studio.ledger.record_ended(entry.id, State.LOST, conflict, actual_usd=None, attention=message)
    studio.tell(SessionEvent.ENDED, entry, conflict)
    return NeedsAttention(message)
