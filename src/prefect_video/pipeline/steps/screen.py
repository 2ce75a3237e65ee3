"""Screen: refuse a prompt before it is sent, by the local screen or because the provider stopped it before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from prefect_video.errors import ContentPolicyError, PromptBlocked
from prefect_video.ledger import Job, command_line
from prefect_video.session import Session, SessionEvent


async def screen_prompts(session: Session, jobs: Sequence[Job]) -> dict[str, Exception]:
    """Screen the prompts of reserved jobs, with one query of the ledger; allow-listed prompts always pass.

    Nothing is written, so that it can be repeated.

    Returns:
        By job id, why a prompt does not pass: a `PromptBlocked`, or the error of a rule.
    """
    verdicts = await asyncio.gather(*(_find_refusal(session, job) for job in jobs))
    refused = [(job, verdict) for job, verdict in zip(jobs, verdicts, strict=True) if verdict is not None]
    if not refused:
        return {}
    # Few prompts are refused: the ledger is read for those alone.
    allowed = await session.ledger.reviews.allowed({job.fingerprint for job, _ in refused})
    return {job.id: verdict for job, verdict in refused if job.fingerprint not in allowed}


async def _find_refusal(session: Session, job: Job) -> Exception | None:
    try:
        await session.screen.check(job.shot)
    except Exception as error:  # noqa: BLE001  returned, as it is the outcome for one shot
        # A rule that fails for one shot does not decide about the others.
        return error
    return None


async def screen_prompt(session: Session, job: Job) -> Job:
    """Let a reserved job pass the prompt screen, or release it for review.

    Raises:
        PromptBlocked: The message names the shot and the reason.
    """
    refusal = (await screen_prompts(session, [job])).get(job.id)
    if refusal is None:
        return job
    if isinstance(refusal, PromptBlocked):
        job = await session.ledger.jobs.release_reservation(job.id, refusal)
        session.notify(SessionEvent.ENDED, job, str(refusal))
    raise refusal


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
        f"shot {job.shot.id!r}: the content policy of {job.provider} stopped this prompt before (job {blocked.id}),"
        f" so that it is not sent. Change the prompt; see: {command_line('review', ledger=ledger)}. To send it once"
        f" more, and perhaps pay for it: {command_line('review', '--allow', job.fingerprint, ledger=ledger)}",
        provider=job.provider,
        generation_id=blocked.generation_id,
    )
    job = await session.ledger.jobs.release_reservation(job.id, error)
    session.notify(SessionEvent.ENDED, job, str(error))
    raise error
