"""Other jobs of an account that were sent and not answered yet: whose the generations may be that no job has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from prefect_video.generations import Generation
from prefect_video.ledger import Job, State
from prefect_video.providers import Match, UnreadableItem, match_prompt
from prefect_video.session import Session


async def are_of_other_jobs(
    session: Session, job: Job, candidates: Sequence[Generation | UnreadableItem], known: Collection[str]
) -> bool:
    """Return whether each generation was recorded meanwhile, or has the prompt of another job that was not answered.

    The same words are evidence whose a generation is; each job can have one.

    Args:
        session: The account.
        job: The job whose generation was searched.
        candidates: The generations that no job had.
        known: Ids of the generations that were recorded before the search.
    """
    # In this order: a job that gets its answer in between is among the first, or its generation among the second.
    unanswered = await _find_unanswered(session, job)
    recorded = (await session.ledger.jobs.recorded_generations(job.account)).keys() - set(known)
    for candidate in candidates:
        owner = next((other for other in unanswered if _is_of(candidate, other) and not _is_of(candidate, job)), None)
        if owner is not None:
            unanswered.remove(owner)
        elif candidate.id not in recorded:
            return False
    return True


async def is_another_being_sent(session: Session, job: Job) -> bool:
    """Return whether another job waits for its answer, which may name a generation that is unclaimed until then."""
    longest = timedelta(seconds=session.settings.lease_seconds + session.settings.settle_seconds)
    since = await session.ledger.now() - longest
    return any(
        other.state is State.SUBMITTING and (other.sent_at or other.updated_at) >= since
        for other in await _find_unanswered(session, job)
    )


async def _find_unanswered(session: Session, job: Job) -> list[Job]:
    others = await session.ledger.jobs.unfinished(account=job.account)
    return [other for other in others if other.state in (State.SUBMITTING, State.UNKNOWN) and other.id != job.id]


def _is_of(candidate: Generation | UnreadableItem, job: Job) -> bool:
    if not isinstance(candidate, Generation) or candidate.remixed_from not in (None, job.shot.remixed_from):
        return False
    return match_prompt(job.shot.prompt, candidate.prompt) is Match.SAME
