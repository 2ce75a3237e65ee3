"""Cancellation of jobs: each at the session that it was made with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from prefect_video.errors import GenerationEnded, NotFound, VideoError
from prefect_video.generations import Status
from prefect_video.ledger import UNFINISHED, Job, State
from prefect_video.pipeline.steps.end import require_same_account
from prefect_video.pipeline.steps.poll import record_end
from prefect_video.session import Session, SessionEvent, SessionOpener, group_by_session

logger = logging.getLogger(__name__)


class CancelledJob(BaseModel):
    """The outcome of cancelling one job.

    Attributes:
        job: The job afterwards.
        outcome: Description of the outcome.
        error: Why nothing was changed.
    """

    model_config = ConfigDict(frozen=True)

    job: Job
    outcome: str
    error: str | None = None

    @property
    def is_still_running(self) -> bool:
        """True while it is still in progress, and may be billed."""
        return self.job.state in UNFINISHED


async def cancel_jobs(jobs: Sequence[Job], open_session: SessionOpener) -> list[CancelledJob]:
    """Cancel jobs and settle what is owed; an unreachable account does not hold up the other accounts.

    Args:
        jobs: The jobs; those that have ended stay unchanged.
        open_session: Opens the session of a job; jobs with the same credentials and store share one.

    Returns:
        One line for each job.
    """
    cancelled = await asyncio.gather(*(_cancel_group(open_session, group) for group in group_by_session(jobs)))
    return [line for lines in cancelled for line in lines]


async def _cancel_group(open_session: SessionOpener, jobs: Sequence[Job]) -> list[CancelledJob]:
    ended: Sequence[Job | BaseException]
    try:
        async with open_session(jobs[0]) as session:
            ended = await cancel_each(session, jobs)
    except Exception as error:
        # An error of one account must not keep the generations at other accounts running, and billed.
        unexpected = None if isinstance(error, VideoError) else error
        logger.error("cannot cancel with %s: %s", jobs[0].credentials, error, exc_info=unexpected)
        ended = [error] * len(jobs)
    return [_line(before, after) for before, after in zip(jobs, ended, strict=True)]


def _line(before: Job, after: Job | BaseException) -> CancelledJob:
    if isinstance(after, Job):
        return CancelledJob(job=after, outcome=_outcome(before, after))
    if not isinstance(after, Exception):
        raise after
    return CancelledJob(job=before, outcome="not cancelled", error=str(after) or type(after).__name__)


def _outcome(before: Job, after: Job) -> str:
    if before.state not in UNFINISHED:
        return f"was over already: {before.state.value}"
    match after.state:
        case State.RELEASED:
            return "released: it was not sent, nothing is owed"
        case State.CANCELLED:
            return "cancelled at the provider"
        case State.SUBMITTED:
            return "too far to be cancelled: it goes on and is paid; collect stores it"
        case State.COMPLETED:
            return "made and paid already: collect stores it"
        case State.SUBMITTING | State.UNKNOWN:
            return "its submit is not answered: collect finds out first"
    return after.state.value


async def cancel(session: Session, job_id: str) -> Job:
    """Cancel an unfinished job and settle what is owed; idempotent.

    A reservation is released. A submitted generation is cancelled where the provider still can; one that can no longer
    be cancelled goes on and is stored by `collect`, as it is paid. A job whose submit is unanswered is left to
    `collect`.

    Returns:
        The job afterwards.

    Raises:
        HeldForReview: It is another account's; nothing is changed.
        ProviderError: The provider gives no answer; nothing is changed.
    """
    job = await session.ledger.jobs.get(job_id)
    if job.state is State.RESERVED:
        job = await session.ledger.jobs.release_reservation(job.id, "cancelled before it was sent")
        session.notify(SessionEvent.ENDED, job, "cancelled before it was sent")
        return job
    if job.state is not State.SUBMITTED or job.generation_id is None:
        return job
    require_same_account(session, job)
    try:
        generation = await session.provider.cancel(job.generation_id)
    except NotFound:
        return job
    if generation.status.ended and generation.status is not Status.LOST:
        # An end without a video is the purpose of a cancellation; the job is settled.
        with contextlib.suppress(GenerationEnded):
            await record_end(session, job, generation)
    return await session.ledger.jobs.get(job.id)


async def cancel_each(session: Session, jobs: Sequence[Job]) -> list[Job | BaseException]:
    """Cancel several jobs; return the outcome of each, in their order.

    Reservations go first: the slot that a cancelled generation frees must not go to a job that is cancelled next.
    """
    ended: dict[str, Job | BaseException] = {}
    for reserved in (True, False):
        group = [job for job in jobs if (job.state is State.RESERVED) is reserved]
        outcomes = await asyncio.gather(*(cancel(session, job.id) for job in group), return_exceptions=True)
        ended |= {job.id: outcome for job, outcome in zip(group, outcomes, strict=True)}
    return [ended[job.id] for job in jobs]
