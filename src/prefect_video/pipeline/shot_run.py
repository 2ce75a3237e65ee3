"""Shot run: takes one claimed take to a stored asset, from any state that its job is in.

`run_shot` repeats claim and steps until the outcome is final; `run_steps` takes one job through the steps it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect_video.assets import Asset
from prefect_video.errors import (
    BudgetExceeded,
    GenerationBlocked,
    GenerationExpired,
    GenerationFailed,
    GenerationLost,
    HeldForReview,
    InvalidTransition,
    LedgerError,
    VideoError,
    VideoRejected,
)
from prefect_video.ledger import UNFINISHED, Budget, ClaimOutcome, ClaimResult, Job, JobRequest, State, is_late
from prefect_video.limits import StepRank
from prefect_video.pipeline.detach import DetachToken
from prefect_video.pipeline.routing import TakeRequest
from prefect_video.pipeline.step_runner import StepRunner
from prefect_video.pipeline.steps.claim import claim_shot, find_stored
from prefect_video.pipeline.steps.download import download
from prefect_video.pipeline.steps.end import error_of, raise_if_ended
from prefect_video.pipeline.steps.poll import poll
from prefect_video.pipeline.steps.screen import screen_prompt
from prefect_video.pipeline.steps.store import store
from prefect_video.pipeline.steps.submit import submit
from prefect_video.session import Session, SessionEvent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredShot:
    """Outcome of a shot that has its video.

    Attributes:
        asset: The stored video.
        job: Its job.
        cached: The video was stored before, so that nothing was paid now.
        repair: How a stored file that was missing or damaged came back: fetched again, or made anew.
        at_once: No other job was tried for it, so that what was paid is this job's cost.
    """

    asset: Asset
    job: Job
    cached: bool
    repair: str | None = None
    at_once: bool = False


class ServedElsewhere(Exception):
    """Signal that another candidate of the take has a job by now, so that nothing was reserved for this one.

    Attributes:
        request: The request of that candidate.
    """

    def __init__(self, request: JobRequest) -> None:
        super().__init__(request.credentials)
        self.request = request


@dataclass(frozen=True)
class DetachedShot:
    """Outcome of a shot that is left at the provider, to be collected later.

    Attributes:
        job: Its job.
    """

    job: Job


async def run_shot(
    session: Session,
    claim: ClaimResult,
    *,
    budgets: Sequence[Budget],
    runner: StepRunner,
    screened: set[str],
    token: DetachToken | None = None,
) -> StoredShot | DetachedShot:
    """Take a claimed shot to a stored asset; a failed generation is tried again within its attempts and budget.

    Args:
        session: The account's session.
        claim: The ledger's answer to the shot's request.
        budgets: The limits of a further attempt.
        runner: Runs the steps.
        screened: Ids of the jobs whose prompts have passed the run's screen and that are not sent yet.
        token: The shot's token where the run may leave: it is left in flight as soon as all shots are submitted.

    Raises:
        ServedElsewhere: The take has a job at another account; nothing was sent for it here.
        VideoError: Why there is no asset; what was paid is in the ledger with the reason.
    """
    failure: GenerationFailed | GenerationLost | GenerationExpired | VideoRejected | None = None
    lost: Job | None = None
    repair: str | None = None
    while True:
        job = _require_job(claim, failure)
        if claim.kind is ClaimOutcome.STORED and job.asset:
            repair = _describe_repair(claim, lost) if lost else repair or session.repairs.get(job.id)
            is_unpaid = failure is None or isinstance(failure, GenerationExpired)
            return StoredShot(job.asset, job, cached=is_unpaid, repair=repair)
        try:
            if claim.kind is ClaimOutcome.JOINED:
                joined = await _join_or_detach(session, claim, job, budgets, token)
                if joined is None:
                    return DetachedShot(await session.ledger.jobs.get(job.id))
                claim = joined
                continue
            repair = _begin_repair(claim, job, lost) or repair
            job = await run_steps(session, job, runner, screened, token)
            if not job.asset:
                return DetachedShot(job)
            return StoredShot(job.asset, job, cached=False, repair=repair, at_once=failure is None)
        except GenerationFailed as error:
            if error.fails_again:
                raise
            failure = error
        except VideoRejected as error:
            logger.warning("%s", error)
            failure = error
        except GenerationLost as error:
            if session.settings.on_lost == "hold":
                raise
            failure = error
        except GenerationExpired as error:
            if not job.is_reopened:
                raise
            failure, lost = error, job
            await _check_older_video(session, claim.request, job)
        claim = await claim_shot(session, claim.request, budgets=budgets)


def _begin_repair(claim: ClaimResult, job: Job, lost: Job | None) -> str | None:
    """Describe what is about to replace a stored video that is gone or damaged; None where there was none."""
    if job.is_reopened:
        return f"{job.error_message}; it was fetched again from {job.provider}, free"
    if lost is None:
        return None
    repair = _describe_repair(claim, lost)
    logger.warning("%s/%s: %s", job.project, job.shot.id, repair)
    return repair


async def _check_older_video(session: Session, request: JobRequest, lost: Job) -> None:
    """Check the file of an older video of the same request, which may be stored and be flawed too."""
    await find_stored(session, [request], rebuy_missing=lost.id in session.accepted_rebuys)


def _describe_repair(claim: ClaimResult, lost: Job) -> str:
    """Describe how a video came back whose stored file is flawed and that its provider no longer has."""
    is_bought = claim.kind is ClaimOutcome.ACQUIRED
    outcome = "it was made anew" if is_bought else "another whole video of the same request was used"
    return f"{lost.error_message}, and {lost.provider} no longer has it: {outcome}"


def _require_job(claim: ClaimResult, failure: VideoError | None) -> Job:
    """Return the job of a claim, or raise why there is none: the budget, or the last failure of all attempts."""
    if claim.kind is ClaimOutcome.ELSEWHERE:
        raise ServedElsewhere(claim.request)
    if claim.kind is ClaimOutcome.OVER_BUDGET:
        before = f". Before, {failure}" if isinstance(failure, VideoRejected) else ""
        raise BudgetExceeded(f"shot {claim.request.shot.id!r}: {claim.refusal}{before}")
    if claim.kind is ClaimOutcome.EXHAUSTED or claim.job is None:
        last = claim.job
        kind = error_of(last) if last else GenerationFailed
        raise failure or kind(
            f"shot {claim.request.shot.id!r}: all {claim.request.max_attempts} attempts are used up;"
            f" the last one: {last.error_message if last else 'unknown'}",
            provider=claim.request.provider,
            generation_id=last.generation_id if last else None,
        )
    return claim.job


async def _join_or_detach(
    session: Session, claim: ClaimResult, job: Job, budgets: Sequence[Budget], token: DetachToken | None
) -> ClaimResult | None:
    """Wait for the outcome of another owner's job; return None where the run left before there was one."""
    if token is None or job.hold_reason is not None:
        return await _join(session, claim, job, budgets)
    token.mark_submitted()
    return await token.run_until_all_submitted(_join(session, claim, job, budgets))


async def _join(session: Session, claim: ClaimResult, job: Job, budgets: Sequence[Budget]) -> ClaimResult:
    """Wait for another owner's job, and answer the claim anew from its outcome."""
    if job.hold_reason is None:
        job = await session.job_watcher.wait_for_owner_or_end(job.id)
    if job.state is State.STORED:
        return ClaimResult(kind=ClaimOutcome.STORED, request=claim.request, job=job)
    if job.hold_reason is not None:
        raise HeldForReview(job.hold_reason)
    if job.state is State.FAILED and issubclass(error_of(job), GenerationBlocked):
        raise_if_ended(job)
    if job.state in UNFINISHED and job.state is not State.RESERVED:
        taken = await session.ledger.claims.take_over(job.id)
        kind = ClaimOutcome.ACQUIRED if taken else ClaimOutcome.JOINED
        return ClaimResult(kind=kind, request=claim.request, job=taken or job)
    # A reservation too: another account may have made it, and the limits of this one have not seen it yet.
    return await claim_shot(session, claim.request, budgets=budgets)


async def run_steps(
    session: Session, job: Job, runner: StepRunner, screened: set[str], token: DetachToken | None = None
) -> Job:
    """Take a job that this process owns through the steps it still needs; abandon it when a step fails.

    Each step takes the job as the step before has left it.

    Returns:
        The job with its asset; without one where the run left before the provider was done, and released the job.

    Raises:
        VideoError: Why there is no asset.
    """
    try:
        if job.state is State.RESERVED:
            if job.id not in screened:
                # A claim after the project's first, which was screened with all others.
                job = await screen_prompt(session, job)
            # Once only: by the time that a reservation comes back here, the provider may have refused its prompt.
            screened.discard(job.id)
        if job.state is not State.COMPLETED:
            # The slot is held until the provider is done, not while the file is fetched.
            prepares = not runner.has_limit(session)
            async with session.in_flight_slot(job, prepares=prepares), runner.hold_limit(session):
                job = await runner.run_step(submit, session, job)
                if token is None:
                    job = await runner.run_step(poll, session, job)
                elif ended := await _poll_until_detached(session, job, token):
                    job = ended
                else:
                    await session.ledger.claims.release_ownership([job.id])
                    return job
            # A job that had ended before had nothing to be polled for.
            session.step_priority.end_urgent(job.id)
        else:
            # Read again: it may have been claimed long ago, as a shot waits for those that it depends on.
            job = await session.ledger.jobs.get(job.id)
        await session.step_priority.yield_to_urgent(StepRank.DOWNLOAD)
        downloaded = await runner.run_step(download, session, job)
        await session.step_priority.yield_to_urgent(StepRank.STORE)
        return await runner.run_step(store, session, job, downloaded)
    except BaseException as error:
        session.step_priority.end_urgent(job.id)
        await abandon(session, job.id, error)
        raise


async def _poll_until_detached(session: Session, job: Job, token: DetachToken) -> Job | None:
    """Wait for the generation's end for as long as the run stays; return None where the run left first."""
    token.mark_submitted()
    return await token.run_until_all_submitted(poll(session, job))


async def abandon(session: Session, job_id: str, error: BaseException | None) -> None:
    """Release the ownership of a job, and its reservation where a failure ends the work before anything was sent.

    A run that is interrupted, or cannot use the ledger, leaves the state of the job, to be resumed from there.
    """
    try:
        if isinstance(error, Exception) and not isinstance(error, LedgerError):
            await _release_unsent(session, job_id, error)
    finally:
        await session.ledger.claims.release_ownership([job_id])


async def release_claims(takes: Iterable[TakeRequest], *, reason: str | None = None) -> None:
    """Release the ownership of untouched jobs; with a reason, also release reservations.

    Raises:
        LedgerError: The ledger cannot be used; what is left is given up after a later heartbeat.
    """
    acquired = [
        (take.session.ledger, take.claim.job)
        for take in takes
        if take.claim and take.claim.kind is ClaimOutcome.ACQUIRED and take.claim.job
    ]
    owned = {job.id: ledger for ledger, job in acquired}
    try:
        for ledger, job in acquired:
            if is_late(job.fingerprint):
                await ledger.late.release(job, reason or "its run has ended")
            elif reason and job.state is State.RESERVED:
                await ledger.jobs.release_reservation(job.id, reason)
            else:
                continue
            del owned[job.id]
    finally:
        # Where one has failed too, as no other process takes what a living one owns.
        releases = [
            ledger.claims.release_ownership([job_id for job_id, its_ledger in owned.items() if its_ledger is ledger])
            for ledger in dict.fromkeys(owned.values())
        ]
        for outcome in await asyncio.gather(*releases, return_exceptions=True):
            if outcome is not None:
                raise outcome


async def _release_unsent(session: Session, job_id: str, error: Exception) -> None:
    job = await session.ledger.jobs.get(job_id)
    if job.state is not State.RESERVED:
        return
    # Another process may take this one for dead at this very moment, and send the job instead.
    with contextlib.suppress(InvalidTransition):
        job = await session.ledger.jobs.release_reservation(
            job_id, error if isinstance(error, VideoError) else repr(error)
        )
        session.notify(SessionEvent.ENDED, job, str(error))
