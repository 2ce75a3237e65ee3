"""Id conflicts: a provider names a generation for one job that the ledger has recorded for another.

It happens where a server's ids begin anew after a restart. A submit was accepted and may be billed, so its job is
never sent again automatically: it counts as spent and is held for a human.
"""

from __future__ import annotations

import logging

from prefect_video.errors import HeldForReview
from prefect_video.ledger import HoldReason, Job, State, hold_message
from prefect_video.providers import Match, match_prompt
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)


async def find_other_job(session: Session, job: Job, generation_id: str | None) -> Job | None:
    """Return the job that a generation belongs to, if that is another one."""
    if generation_id is None:
        return None
    owner = await session.ledger.jobs.find_generation(job.account, generation_id)
    return None if owner is None or owner.id == job.id else owner


def is_taken_by_twin(job: Job, owner: Job) -> bool:
    """Return whether a job with the same prompt has taken a submit's generation while that was waiting for its answer.

    Two equal requests cannot be distinguished where no key is echoed: then a job whose own submit was not answered may
    take the other one's generation, and it is the other one's that must still be found.
    """
    return (
        match_prompt(job.shot.prompt, owner.shot.prompt) is Match.SAME
        and owner.unknown_at is not None
        and owner.submitted_at is not None
        and job.sent_at is not None
        and owner.submitted_at >= job.sent_at
    )


async def hold_conflict(session: Session, job: Job, generation_id: str, owner: Job) -> HeldForReview:
    """Hold a job whose generation belongs to another job; it counts as spent.

    Args:
        session: The account that it was submitted at.
        job: The job that was submitted, or whose key the generation echoes.
        generation_id: The provider's id.
        owner: The job that the ledger has recorded it for.

    Returns:
        The error to raise, with both jobs and the ways out.

    Raises:
        LedgerError: It could not be recorded.
    """
    conflict = (
        f"shot {job.shot.id!r}: {job.provider} says that job {job.id} is its generation {generation_id}, which"
        f" belongs to job {owner.id} (shot {owner.shot.id!r} of project {owner.project!r}). Its ids may have begun anew"
        " after a restart. The submit was accepted and counts as spent"
    )
    message = hold_message(
        HoldReason.ID_CONFLICT,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        generation=generation_id,
        cause=conflict,
    )
    logger.error("%s", message)
    job = await session.ledger.jobs.record_ended(job.id, State.LOST, conflict, actual_usd=None, hold_reason=message)
    session.notify(SessionEvent.ENDED, job, conflict)
    return HeldForReview(message)
