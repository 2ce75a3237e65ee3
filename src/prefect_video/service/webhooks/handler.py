"""What is done about an event: it is a hint only, the provider itself is asked before anything is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from prefect_video.errors import GenerationEnded, IllegalTransition, ProviderUnavailable
from prefect_video.ledger import Entry, ReceivedEvent, State
from prefect_video.pipeline.steps.poll import record_end
from prefect_video.service.prefect_events import Announce, outcome_of
from prefect_video.session.session import Studio

logger = logging.getLogger(__name__)

Turn = Callable[[], AbstractAsyncContextManager[None]]

_PROGRESS: Final = frozenset(
    {"queued", "pending", "started", "start", "starting", "processing", "progress", "in_progress", "output", "logs"}
)


def tells_of_progress(event_type: str) -> bool:
    """Whether an event's type names no end: nothing need be asked or written for it."""
    return re.split(r"[.:/]", event_type.casefold())[-1] in _PROGRESS


class NotYet(ProviderUnavailable):
    """Not everybody has caught up with the event. Look again."""


class Stranger(NotYet):
    """The generation is not in the ledger: not recorded yet, or somebody else's with the same key."""


async def handle(studio: Studio, event: ReceivedEvent, announce: Announce | None, *, turn: Turn) -> Entry:
    """Reads the generation from its provider, writes the ledger, and tells Prefect; repeating it is safe.

    What the provider told of a completed generation is in `studio.fresh_generations` afterwards.

    Args:
        studio: Of the event's account.
        event: What was received.
        announce: Tells Prefect.
        turn: Held while the ledger is used, so that deliveries, which must be answered at once, queue behind one
            event at the most.

    Returns:
        The row as it then stands.

    Raises:
        Stranger: The generation is not in the ledger, or not yet.
        NotYet: It is not over.
        ProviderError: The provider gave no answer.
        LedgerError: The ledger cannot be used.
    """
    async with turn():
        entry = await find_entry(studio, event)
    if entry is None:
        raise Stranger(f"generation {event.generation_id} is not in the ledger", generation_id=event.generation_id)
    if entry.state is State.SUBMITTED:
        entry = await _record(studio, entry, event, turn)
    if announce:
        announce(entry, event)
    logger.info("%s/%s: %s by webhook", entry.project, entry.shot.id, outcome_of(entry))
    return entry


def is_about(event: ReceivedEvent, entry: Entry) -> bool:
    """Whether an event names a row's generation: some announce the last part only of what names it at their address."""
    known = entry.generation_id
    return known is not None and f"/{known}".endswith(f"/{event.generation_id}")


async def find_entry(studio: Studio, event: ReceivedEvent) -> Entry | None:
    """The row that an event is about."""
    found = await studio.ledger.find_generation(event.account, event.generation_id)
    if found is not None:
        return found
    unfinished = await studio.ledger.unfinished(account=event.account)
    return next((entry for entry in unfinished if is_about(event, entry)), None)


async def _record(studio: Studio, entry: Entry, event: ReceivedEvent, turn: Turn) -> Entry:
    generation = await studio.provider.retrieve(entry.generation_id or event.generation_id)
    if not generation.status.ended:
        raise NotYet(f"generation {generation.id} is {generation.status.value}", generation_id=generation.id)
    async with turn():
        if generation.result is not None and entry.owner is not None:
            # Before the row moves: whoever waits for that fetches the video at once, and need not ask again.
            await studio.fresh_generations.leave(event, generation)
        try:
            return await record_end(studio, entry, generation)
        except (GenerationEnded, IllegalTransition):
            return await studio.ledger.get(entry.id)
