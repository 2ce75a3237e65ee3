"""Screen: refuse a prompt before it is sent, by the local screen or because the provider stopped it before."""

from __future__ import annotations

from typing import NoReturn

from prefect_video.errors import ContentPolicyError, PromptBlocked
from prefect_video.ledger import Job, command_line
from prefect_video.session import Session, SessionEvent


async def screen_prompt(session: Session, job: Job) -> Job:
    """Let a reserved job pass the prompt screen, or release it for review; allow-listed prompts always pass.

    Raises:
        PromptBlocked: The message names the shot and the reason.
    """
    try:
        await session.screen.check(job.shot)
    except PromptBlocked as error:
        # Few prompts are refused: the ledger is read for those alone.
        if await session.ledger.reviews.allowed([job.fingerprint]):
            return job
        job = await session.ledger.jobs.release_reservation(job.id, error)
        session.notify(SessionEvent.ENDED, job, str(error))
        raise
    return job


async def refuse_blocked(session: Session, job: Job, blocked: Job) -> NoReturn:
    """Release a reserved job whose prompt the provider's content policy stopped before, and keep it for review.

    A human who allows the prompt has it sent once more.

    Args:
        session: The account.
        job: The reserved job.
        blocked: The job with the same prompt that was stopped.

    Raises:
        ContentPolicyError: The message names the shot, the job that was stopped, and the command that allows it.
    """
    ledger = session.ledger.command_option
    error = ContentPolicyError(
        f"shot {job.shot.id!r}: the content policy of {job.provider} stopped this prompt before (row {blocked.id}),"
        f" so that it is not sent. Change the prompt; see: {command_line('review', ledger=ledger)}. To send it once"
        f" more, and perhaps pay for it: {command_line('review', '--allow', job.fingerprint, ledger=ledger)}",
        provider=job.provider,
        generation_id=blocked.generation_id,
    )
    job = await session.ledger.jobs.release_reservation(job.id, error)
    session.notify(SessionEvent.ENDED, job, str(error))
    raise error
