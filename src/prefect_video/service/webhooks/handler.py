"""The handler of webhook events: an event is a hint only, so the generation is read from its provider first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from prefect_video.errors import GenerationEnded, InvalidTransition, ProviderUnavailable
from prefect_video.ledger import Job, ReceivedEvent, State
from prefect_video.pipeline.steps import record_end
from prefect_video.service.prefect_events import Announce, get_outcome
from prefect_video.session import Session

logger = logging.getLogger(__name__)

Turn = Callable[[], AbstractAsyncContextManager[None]]


class NotFinished(ProviderUnavailable):
    """The provider's API, or the ledger, does not show the event's state yet; handling it is to be retried."""


class UnknownGeneration(NotFinished):
    """The generation is not in the ledger: not recorded yet, or made by other software with the same key."""


async def handle(session: Session, event: ReceivedEvent, announce: Announce | None, *, turn: Turn) -> Job:
    """Read the generation from its provider, write the ledger, and emit a Prefect event; repeating it is safe.

    A completed generation is in `session.fresh_generations` afterwards, with its link.

    Args:
        session: The session of the event's account.
        event: The received event.
        announce: Emits a Prefect event; None for none.
        turn: Held while the ledger is used, so that deliveries, which must be answered at once, have precedence.

    Returns:
        The job after the event.

    Raises:
        UnknownGeneration: The generation is not in the ledger, perhaps not yet.
        NotFinished: The generation has not ended.
        ProviderError: The provider did not answer.
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
    logger.debug("%s/%s: %s by webhook", job.project, job.shot.id, get_outcome(job))
    return job


def is_about(event: ReceivedEvent, job: Job) -> bool:
    """Check if an event is about a job's generation.

    Some providers send only the last path segment of the id that their API uses.
    """
    return job.generation_id is not None and f"/{job.generation_id}".endswith(f"/{event.generation_id}")


async def find_job(session: Session, event: ReceivedEvent) -> Job | None:
    """Find the job that an event is about, None if the ledger has none."""
    job = await session.ledger.jobs.find_generation(event.account, event.generation_id)
    if job is not None:
        return job
    unfinished = await session.ledger.jobs.unfinished(account=event.account)
    return next((candidate for candidate in unfinished if is_about(event, candidate)), None)


async def _record(session: Session, job: Job, event: ReceivedEvent, turn: Turn) -> Job:
    """Read the generation from its provider and record its end."""
    generation = await session.provider.retrieve(job.generation_id or event.generation_id)
    if not generation.status.ended:
        raise NotFinished(f"generation {generation.id} is {generation.status.value}", generation_id=generation.id)
    if generation.seconds_taken is None and job.submitted_at is not None:
        # The webhook came at its end: where the provider reports no times, this is how long it took.
        taken = (event.received_at - job.submitted_at).total_seconds()
        generation = generation.model_copy(update={"seconds_taken": taken})
    async with turn():
        if generation.result is not None and job.owner is not None:
            # Before the state changes: the owner, who waits for that, then finds the link and sends no request.
            await session.fresh_generations.leave(event, generation)
        try:
            return await record_end(session, job, generation)
        except (GenerationEnded, InvalidTransition):
            # Another process has recorded the end meanwhile, or it is one without a video.
            return await session.ledger.jobs.get(job.id)
