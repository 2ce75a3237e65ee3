"""What is done about an event: it is a hint only, the provider itself is asked before anything is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from prefect_video.errors import GenerationEnded, InvalidTransition, ProviderUnavailable
from prefect_video.ledger import Job, ReceivedEvent, State
from prefect_video.pipeline.steps import record_end
from prefect_video.service.prefect_events import Announce, outcome_of
from prefect_video.session import Session

logger = logging.getLogger(__name__)

Turn = Callable[[], AbstractAsyncContextManager[None]]

_PROGRESS: Final = frozenset(
    {"queued", "pending", "started", "start", "starting", "processing", "progress", "in_progress", "output", "logs"}
)


def is_progress_event(event_type: str) -> bool:
    """Whether an event's type names no end: nothing need be asked or written for it."""
    return re.split(r"[.:/]", event_type.casefold())[-1] in _PROGRESS


class NotFinished(ProviderUnavailable):
    """Not everybody has caught up with the event. Look again."""


class UnknownGeneration(NotFinished):
    """The generation is not in the ledger: not recorded yet, or somebody else's with the same key."""


async def handle(session: Session, event: ReceivedEvent, announce: Announce | None, *, turn: Turn) -> Job:
    """Reads the generation from its provider, writes the ledger, and tells Prefect; repeating it is safe.

    What the provider told of a completed generation is in `session.fresh_generations` afterwards.

    Args:
        session: Of the event's account.
        event: What was received.
        announce: Tells Prefect.
        turn: Held while the ledger is used, so that deliveries, which must be answered at once, queue behind one
            event at the most.

    Returns:
        The row as it then stands.

    Raises:
        UnknownGeneration: The generation is not in the ledger, or not yet.
        NotFinished: It is not over.
        ProviderError: The provider gave no answer.
        LedgerError: The ledger cannot be used.
    """
    async with turn():
        job = await find_job(session, event)
    if job is None:
        raise UnknownGeneration(
            f"generation {event.generation_id} is not in the ledger", generation_id=event.generation_id
        )
    if job.state is State.SUBMITTED:
        job = await _record(session, job, event, turn)
    if announce:
        announce(job, event)
    logger.info("%s/%s: %s by webhook", job.project, job.shot.id, outcome_of(job))
    return job


def is_about(event: ReceivedEvent, job: Job) -> bool:
    """Whether an event names a row's generation: some announce the last part only of what names it at their address."""
    known = job.generation_id
    return known is not None and f"/{known}".endswith(f"/{event.generation_id}")


async def find_job(session: Session, event: ReceivedEvent) -> Job | None:
    """The row that an event is about."""
    found = await session.ledger.jobs.find_generation(event.account, event.generation_id)
    if found is not None:
        return found
    unfinished = await session.ledger.jobs.unfinished(account=event.account)
    return next((job for job in unfinished if is_about(event, job)), None)


async def _record(session: Session, job: Job, event: ReceivedEvent, turn: Turn) -> Job:
    generation = await session.provider.retrieve(job.generation_id or event.generation_id)
    if not generation.status.ended:
        raise NotFinished(f"generation {generation.id} is {generation.status.value}", generation_id=generation.id)
    async with turn():
        if generation.result is not None and job.owner is not None:
            # Before the row moves: whoever waits for that fetches the video at once, and need not ask again.
            await session.fresh_generations.leave(event, generation)
        try:
            return await record_end(session, job, generation)
        except (GenerationEnded, InvalidTransition):
            return await session.ledger.jobs.get(job.id)
