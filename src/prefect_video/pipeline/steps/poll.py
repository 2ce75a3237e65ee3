"""Poll: wait for the end of a submitted generation, and record it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prefect_video._shield import shielded
from prefect_video.errors import DeadlineExceeded, GenerationBlocked, GenerationFailed, GenerationInvalid
from prefect_video.generations import Generation, ProviderFault, Status, find_hinted_seconds
from prefect_video.ledger import Job, State
from prefect_video.limits import StepRank
from prefect_video.pipeline.steps.absence import require_loss_proven
from prefect_video.pipeline.steps.deadline import apply_deadline_policy
from prefect_video.pipeline.steps.end import ERRORS, end, raise_if_ended, require_same_account
from prefect_video.pipeline.steps.spans import traced_step
from prefect_video.polling import LatencyForecast
from prefect_video.providers import is_moderation
from prefect_video.session import Session, SessionEvent

_ENDED: dict[Status, tuple[State, str]] = {
    Status.FAILED: (State.FAILED, "the provider failed to make it"),
    Status.CANCELLED: (State.CANCELLED, "it was cancelled"),
    Status.EXPIRED: (State.EXPIRED, "the provider no longer keeps the video"),
    Status.LOST: (State.LOST, "the provider no longer knows the generation"),
}


@traced_step("poll")
async def poll(session: Session, job: Job) -> Job:
    """Wait until a submitted generation ends, and record its end.

    Returns:
        The job, completed or stored.

    Raises:
        GenerationEnded: It ended without a video, or was cancelled at its deadline; the job is settled.
        DeadlineExceeded: It has not ended in time and is left running.
        HeldForReview: It has not ended in time and is held for a human, or it is another account's.
    """
    raise_if_ended(job)
    if job.state is not State.SUBMITTED or job.generation_id is None:
        return job
    require_same_account(session, job)
    try:
        ended = await _wait_for_end(session, job, job.generation_id)
    except DeadlineExceeded as passed:
        ended = await apply_deadline_policy(session, job, passed)
    # From the notice on, until the slot is free.
    session.step_priority.begin_urgent(job.id)
    if isinstance(ended, Generation):
        job = await record_end(session, job, ended)
    else:
        job = raise_if_ended(ended)
        session.notify(SessionEvent.COMPLETED, job)
    session.step_priority.end_urgent(job.id)
    # The next shot has the slot by now: it is sent before the orchestrator records the end of this step.
    await session.step_priority.yield_to_urgent(StepRank.POLL)
    return job


async def record_end(session: Session, job: Job, generation: Generation) -> Job:
    """Record the end of a generation.

    Raises:
        GenerationEnded: It ended without a video.
        HeldForReview: The key in use does not know it, and may be another tenant's than the one that sent it.
    """
    await require_loss_proven(session, job, generation)
    if generation.status is Status.COMPLETED:
        job = await session.ledger.jobs.record_completed(job.id, generation, bound=session.settings.cost_bound)
        session.fresh_generations.put(generation)
        session.notify(SessionEvent.COMPLETED, job)
        return job
    state, happened = _ENDED[generation.status]
    reason = f" ({generation.fault.code}: {generation.fault.message})" if generation.fault else ""
    kind = _failure_type(generation.fault) if state is State.FAILED else ERRORS[state]
    error = kind(
        f"shot {job.shot.id!r}: {happened}{reason}; generation {generation.id} at {generation.provider}.",
        provider=generation.provider,
        generation_id=generation.id,
    )
    await end(session, job, state, error, generation=generation)
    raise error


def _failure_type(fault: ProviderFault | None) -> type[GenerationFailed]:
    if fault is not None and is_moderation(fault.code, fault.type, fault.message):
        return GenerationBlocked
    return GenerationInvalid if fault is not None and fault.of_request else GenerationFailed


async def _wait_for_end(session: Session, job: Job, generation_id: str) -> Generation | Job:
    """Wait for the generation's end; return the job instead where the webhook receiver has moved it first."""
    if ended := _find_end(session, generation_id):
        return ended
    polling = session.poller.wait_for_end(
        generation_id,
        submitted_at=job.submitted_at or job.updated_at,
        expected=await _build_forecast(session, job, generation_id),
        deadline_at=job.deadline_at,
        on_change=lambda _: session.notify(SessionEvent.POLLED, job),
        relaxed=session.webhook_url(job) is not None,
    )
    if session.settings.webhook_url is None:
        return await polling
    return await _wait_for_first(polling, session.job_watcher.wait_for_change(job.id))


def _find_end(session: Session, generation_id: str) -> Generation | None:
    """Return the provider's last answer, if it is that the generation has ended."""
    latest = session.fresh_generations.get(generation_id)
    return latest if latest is not None and latest.status.ended else None


async def _build_forecast(session: Session, job: Job, generation_id: str) -> LatencyForecast:
    """Build the forecast of a generation's end, and forget the answer it is built of: a poll brings a newer one."""
    submitted_at = job.submitted_at or job.updated_at
    latest = session.fresh_generations.get(generation_id) or Generation(
        id=generation_id,
        provider=job.provider,
        status=Status.PROCESSING,
        created_at=submitted_at,
        estimated_completion_at=job.estimated_completion_at,
    )
    session.fresh_generations.discard(generation_id)
    least, most = session.provider.capabilities.seconds_per_video_second
    return LatencyForecast(
        await session.latency.history(job.shot),
        hinted_seconds=find_hinted_seconds(latest, submitted_at),
        usual_seconds=(least * job.shot.length_seconds, most * job.shot.length_seconds),
    )


async def _wait_for_first(*coroutines: Coroutine[Any, Any, Generation | Job]) -> Generation | Job:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await shielded(asyncio.gather(*tasks, return_exceptions=True))
