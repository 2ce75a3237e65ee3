"""Polling: from submitted to the generation's end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prefect_video._shield import to_its_end
from prefect_video.errors import DeadlinePassed, GenerationBlocked, GenerationFailed, GenerationInvalid
from prefect_video.generations import Generation, ProviderFault, Status
from prefect_video.ledger import Entry, State
from prefect_video.pipeline.steps.deadline import give_up
from prefect_video.pipeline.steps.end import ERRORS, demand_account, demand_alive, end
from prefect_video.polling.schedule import expect
from prefect_video.providers.moderation import is_moderation
from prefect_video.session.session import SessionEvent, Studio

_ENDED: dict[Status, tuple[State, str]] = {
    Status.FAILED: (State.FAILED, "the provider failed to make it"),
    Status.CANCELLED: (State.CANCELLED, "it was cancelled"),
    Status.EXPIRED: (State.EXPIRED, "the provider no longer keeps the video"),
    Status.LOST: (State.LOST, "the provider no longer knows the generation"),
}


async def poll(studio: Studio, entry: Entry) -> Entry:
    """Waits until a submitted generation ends and writes down how.

    Returns:
        The row, completed or stored.

    Raises:
        GenerationEnded: It ended without a video, or was cancelled at its deadline; the row is settled.
        DeadlinePassed: It has not ended in time and is left running.
        NeedsAttention: It has not ended in time and is held for a human, or it is another account's.
    """
    demand_alive(entry)
    if entry.state is not State.SUBMITTED or entry.generation_id is None:
        return entry
    demand_account(studio, entry)
    try:
        ended = await _end_of(studio, entry, entry.generation_id)
    except DeadlinePassed as passed:
        ended = await give_up(studio, entry, passed)
    if isinstance(ended, Generation):
        return await record_end(studio, entry, ended)
    ended = demand_alive(ended)
    studio.tell(SessionEvent.COMPLETED, ended)
    return ended


async def record_end(studio: Studio, entry: Entry, generation: Generation) -> Entry:
    """Writes down how a generation ended.

    Raises:
        GenerationEnded: It ended without a video.
    """
    if generation.status is Status.COMPLETED:
        entry = await studio.ledger.record_completed(entry.id, generation, bound=studio.settings.cost_bound)
        studio.fresh_generations.put(generation)
        studio.tell(SessionEvent.COMPLETED, entry)
        return entry
    state, happened = _ENDED[generation.status]
    reason = f" ({generation.fault.code}: {generation.fault.message})" if generation.fault else ""
    kind = _failure(generation.fault) if state is State.FAILED else ERRORS[state]
    error = kind(
        f"shot {entry.shot.id!r}: {happened}{reason}; generation {generation.id} at {generation.provider}.",
        provider=generation.provider,
        generation_id=generation.id,
    )
    await end(studio, entry, state, error, generation=generation)
    raise error


def _failure(fault: ProviderFault | None) -> type[GenerationFailed]:
    if fault is not None and is_moderation(fault.code, fault.type, fault.message):
        return GenerationBlocked
    return GenerationInvalid if fault is not None and fault.of_request else GenerationFailed


async def _end_of(studio: Studio, entry: Entry, generation_id: str) -> Generation | Entry:
    """Wait for the provider's last answer, or for the row once another process, a webhook's receiver, has moved it."""
    submitted_at = entry.submitted_at or entry.updated_at
    latest = studio.fresh_generations.get(generation_id) or Generation(
        id=generation_id,
        provider=entry.provider,
        status=Status.PROCESSING,
        created_at=submitted_at,
        estimated_completion_at=entry.estimated_completion_at,
    )
    if latest.status.ended:
        return latest
    expected = expect(
        latest,
        duration_seconds=entry.shot.duration,
        work_seconds_per_second=studio.provider.capabilities.work_seconds_per_second,
        learned=await studio.times.of(entry.shot),
        submitted_at=submitted_at,
    )
    watching = studio.watcher.wait(
        generation_id,
        submitted_at=submitted_at,
        expected=expected,
        deadline_at=entry.deadline_at,
        on_change=lambda _: studio.tell(SessionEvent.POLLED, entry),
        relaxed=studio.webhook_url(entry) is not None,
    )
    if studio.settings.webhook_url is None:
        return await watching
    return await _first(watching, studio.rows.changed(entry.id))


async def _first(*works: Coroutine[Any, Any, Generation | Entry]) -> Generation | Entry:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await to_its_end(asyncio.gather(*tasks, return_exceptions=True))
