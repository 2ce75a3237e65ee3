"""Collection: finish the unfinished jobs that no live owner works on.

It is the recovery after a crash, and the second half of a deferred run. Idempotent, and safe beside live flows: a job
is only touched after it has been taken over from a dead owner. Nothing is ever sent from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import (
    DeadlineExceeded,
    GenerationEnded,
    HeldForReview,
    InvalidTransition,
    LedgerError,
    VideoError,
)
from prefect_video.ledger import Job, Ledger, State
from prefect_video.pipeline.approval import settle_overdue
from prefect_video.pipeline.project_gallery import refresh_gallery
from prefect_video.pipeline.run_completion import OnDeferredOutcome, complete_runs
from prefect_video.pipeline.steps.deadline import apply_deadline_policy, hold_message_if_stuck, is_past_deadline
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import require_same_account
from prefect_video.pipeline.steps.poll import poll, record_end
from prefect_video.pipeline.steps.reconcile import reconcile
from prefect_video.pipeline.steps.store import store
from prefect_video.session import NamedSessionOpener, Session, group_by_session

logger = logging.getLogger(__name__)

_QUEUED_LIMIT: Final = timedelta(days=1)
"""Age up to which unsent jobs are left to what is to send them; older ones are released, as nothing has."""


class CollectedJob(BaseModel):
    """The outcome of a collection for one job.

    Attributes:
        job: The job afterwards.
        outcome: Description of what was done.
        error: Why it could not be finished now.
    """

    model_config = ConfigDict(frozen=True)

    job: Job
    outcome: str
    error: str | None = None


async def collect(
    ledger: Ledger,
    open_session: NamedSessionOpener,
    *,
    project: str | None = None,
    flow_run_id: str | None = None,
    wait: bool = False,
    on_outcome: OnDeferredOutcome | None = None,
) -> list[CollectedJob]:
    """Finish all unfinished jobs that no live owner works on, and write the page of each project that this changed.

    Of a deferred run whose last job this finishes, the film, the page and the report follow.

    Args:
        ledger: The ledger that holds the jobs.
        open_session: Opens the session of a job; jobs with the same credentials and store share one.
        project: Only this project's jobs.
        flow_run_id: Only this run's jobs.
        wait: Wait for generations that are still being made, instead of leaving them for the next collection.
        on_outcome: Called with the outcome of each deferred run of which nothing is in progress any more.

    Returns:
        One line for each unfinished job.
    """
    await settle_overdue(ledger, project)
    jobs = await ledger.jobs.unfinished(project=project, flow_run_id=flow_run_id)
    groups = group_by_session(jobs)
    swept = await asyncio.gather(*(_collect_group(ledger, open_session, group, wait) for group in groups))
    collected = [line for lines in swept for line in lines]
    published = await complete_runs(ledger, open_session, project=project, run_id=flow_run_id, on_outcome=on_outcome)
    await _refresh_galleries(open_session, jobs, collected, published)
    return collected


async def _refresh_galleries(
    open_session: NamedSessionOpener,
    before: Sequence[Job],
    collected: Sequence[CollectedJob],
    published: Collection[tuple[str, str]],
) -> None:
    """Write the page of each project with jobs that have changed, once, in each store that they are in.

    Those that were `published` already are left out.
    """
    states = {job.id: (job.state, job.hold_reason) for job in before}
    changed = {
        (line.job.store, line.job.project): line.job
        for line in collected
        if states[line.job.id] != (line.job.state, line.job.hold_reason)
        and (line.job.store, line.job.project) not in published
    }
    for group in group_by_session(changed.values()):
        try:
            async with open_session(group[0]) as session:
                for job in group:
                    await refresh_gallery(session, job.project)
        except Exception as error:
            # The videos are collected: pages, which `gallery` makes at any time, must not end it.
            unexpected = None if isinstance(error, VideoError) else error
            logger.warning("the pages in %s could not be written: %s", group[0].store, error, exc_info=unexpected)


async def _collect_group(
    ledger: Ledger, open_session: NamedSessionOpener, jobs: Sequence[Job], wait: bool
) -> list[CollectedJob]:
    try:
        async with open_session(jobs[0]) as session:
            await session.store.remove_stale_uploads()
            return list(await asyncio.gather(*(collect_job(session, job, wait=wait) for job in jobs)))
    except Exception as error:
        # An error of one account or store must not end the collection at the other ones.
        unexpected = None if isinstance(error, VideoError) else error
        logger.error("cannot open %s with %s: %s", jobs[0].store, jobs[0].credentials, error, exc_info=unexpected)
        reason = str(error) or type(error).__name__
        return [CollectedJob(job=await _count_left(ledger, job, reason), outcome="left", error=reason) for job in jobs]


async def collect_job(session: Session, job: Job, *, wait: bool) -> CollectedJob:
    """Finish one unfinished job, unless a live owner works on it.

    A held job is left alone, except for a generation that was late: it may have ended by now.
    """
    if job.hold_reason and job.state is not State.SUBMITTED:
        return CollectedJob(job=job, outcome="is held", error=job.hold_reason)
    taken = await session.ledger.claims.take_over(job.id)
    if taken is None:
        return CollectedJob(job=job, outcome="a live owner is working on it")
    try:
        outcome = await _resume(session, taken, wait)
        if taken.left_count:
            await session.ledger.jobs.forget_left(job.id)
        return CollectedJob(job=await session.ledger.jobs.get(job.id), outcome=outcome)
    except GenerationEnded as error:
        return CollectedJob(
            job=await session.ledger.jobs.get(job.id), outcome="ended without a video", error=str(error)
        )
    except HeldForReview as error:
        return CollectedJob(job=await session.ledger.jobs.get(job.id), outcome="is held", error=str(error))
    except InvalidTransition as error:
        return CollectedJob(
            job=await session.ledger.jobs.get(job.id), outcome="moved by another process", error=str(error)
        )
    except VideoError as error:
        return await _leave(session, job.id, error)
    except Exception as error:
        # A defect that one job meets must not end the collection of the other jobs.
        logger.exception("%s/%s: unexpected error, not collected now", job.project, job.shot.id)
        reason = str(error) or type(error).__name__
        return CollectedJob(job=await _count_left(session.ledger, job, reason), outcome="left for later", error=reason)
    finally:
        await session.ledger.claims.release_ownership([job.id])


async def _resume(session: Session, job: Job, wait: bool) -> str:
    if job.state is State.SUBMITTING:
        job = await session.ledger.jobs.record_unknown(job.id, "its owner died between sending and recording")
    if job.state is State.UNKNOWN:
        job = await reconcile(session, job)
    if job.state is State.RESERVED and _is_queued(job):
        return "queued for a run that sends it"
    if job.state is State.RESERVED:
        await session.ledger.jobs.release_reservation(job.id, "no owner was left to send it")
        return "released: it was never sent"
    if job.state is State.SUBMITTED:
        waits = wait and not is_past_deadline(job)
        job = await (poll(session, job) if waits else _poll_once(session, job))
    if job.state is State.SUBMITTED:
        return "still being made"
    if job.state is State.COMPLETED:
        await store(session, job, await download(session, job))
    return "stored"


def _is_queued(job: Job) -> bool:
    """Tell whether a job was lately accepted by the service, or reserved by a run for its parts: those send it."""
    return job.is_queued and datetime.now(UTC) - job.created_at < _QUEUED_LIMIT


async def _poll_once(session: Session, job: Job) -> Job:
    require_same_account(session, job)
    generation = await session.poller.poll_once(job.generation_id or "")
    if not generation.status.ended:
        if not is_past_deadline(job):
            return job
        passed = DeadlineExceeded(
            f"generation {job.generation_id} had not ended by {job.deadline_at:%Y-%m-%d %H:%M:%S}Z; it is left running"
        )
        generation = await apply_deadline_policy(session, job, passed)
    return await record_end(session, job, generation)


async def _leave(session: Session, job_id: str, error: VideoError) -> CollectedJob:
    """Leave a job to the next collection; hold it for a human where none will finish it by itself."""
    job = await session.ledger.jobs.get(job_id)
    if job.hold_reason is None and (message := hold_message_if_stuck(session, job, error)):
        job = await session.ledger.jobs.hold(job.id, message)
    if job.hold_reason:
        return CollectedJob(job=job, outcome="is held", error=job.hold_reason)
    logger.warning("%s/%s: not collected now: %s", job.project, job.shot.id, error)
    return CollectedJob(
        job=await _count_left(session.ledger, job, str(error)), outcome="left for later", error=str(error)
    )


async def _count_left(ledger: Ledger, job: Job, reason: str) -> Job:
    """Record that a job was left for later, and why, so that it is listed where that happens again."""
    try:
        return job if job.hold_reason else await ledger.jobs.record_left(job.id, reason)
    except LedgerError as error:
        # What could not be collected must not end the collection of the rest.
        logger.warning("%s/%s: cannot record that it was left: %s", job.project, job.shot.id, error)
        return job
