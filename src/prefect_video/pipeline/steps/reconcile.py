"""Reconcile: find out if an unanswered submit was accepted, before anything is sent again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from prefect_video.errors import (
    AuthenticationFailed,
    HeldForReview,
    InvalidInput,
    InvalidResponse,
    InvalidTransition,
    ProviderError,
    QuotaExhausted,
    RequestRejected,
    StoreError,
    SubmitOutcomeUnknown,
)
from prefect_video.generations import Generation
from prefect_video.ledger import HoldReason, Job, hold_message
from prefect_video.pipeline.steps.absence import AbsenceUnproven, search_sent
from prefect_video.pipeline.steps.conflicts import find_other_job, hold_conflict, is_taken_by_twin
from prefect_video.pipeline.steps.end import require_same_account
from prefect_video.pipeline.steps.other_jobs import are_of_other_jobs, is_another_being_sent
from prefect_video.pipeline.steps.shot_images import ImageLoader, with_local_images
from prefect_video.polling import is_transient
from prefect_video.providers import Provider, UnclaimedFound, echoes_key
from prefect_video.session import Session, SessionEvent
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_RETRY_LIMIT_SECONDS: Final = 10.0
_EMPTY_LISTS: Final = 2
"""Number of empty lists that prove absence: one may come from a replica that lags behind."""


@dataclass(frozen=True)
class _SettleTime:
    """The time after which an unanswered submit can no longer be accepted: the later one by two clocks.

    A wall clock can be set, and the monotonic clock of this process has not seen the time before it.

    Attributes:
        at: By the ledger's clock, which all processes share.
        monotonic_at: By this process's monotonic clock, counted from when the process began to reconcile.
    """

    at: datetime
    monotonic_at: float

    @classmethod
    def begin(cls, job: Job, settle_seconds: float) -> Self:
        """Start the settle time of a job."""
        return cls(
            at=(job.unknown_at or job.updated_at) + timedelta(seconds=settle_seconds),
            monotonic_at=asyncio.get_running_loop().time() + settle_seconds,
        )

    def seconds_left(self, now: datetime) -> float:
        """Return the seconds until both clocks are past it, given the ledger's time; negative after that."""
        by_ledger = (self.at - now).total_seconds()
        return max(by_ledger, self.monotonic_at - asyncio.get_running_loop().time())


async def reconcile(session: Session, job: Job) -> Job:
    """Bring an unknown job to submitted (it was accepted) or back to reserved (proven absent).

    Absence is proven by reads of the provider's whole list of which the last began later than `settle_seconds` after
    the outcome had become unknown: until then the provider may still accept the request. Generations that no job has
    count as absent where they are of other jobs that were sent and not answered yet. Where the answer named a
    generation, that is read first, and the list proves no absence: it may leave out what is unfinished.

    Raises:
        HeldForReview: The provider cannot tell, and the job is held; or another account sent it.
        ProviderError: The provider gives no answer; the job stays unknown and can be reconciled later.
    """
    require_same_account(session, job)
    session.notify(SessionEvent.UNANSWERED, job)
    settle_time = _SettleTime.begin(job, session.settings.settle_seconds)
    delay = _RETRY_SECONDS
    empty = 0
    while True:
        # Before the read: only a list whose read began after the settle time proves absence.
        listed_at = await session.ledger.now()
        left = settle_time.seconds_left(listed_at)
        try:
            found = await _find(session, job, listed_at)
        except HeldForReview as error:
            is_over = left <= -session.settings.submit_patience_seconds or not await _may_clear_up(session, job, error)
            if not _can_read_later(session, job) or (left <= 0 and is_over):
                # Not by policy where the key has changed: that is a matter of settings, which a human corrects.
                return await _undecided(session, job, str(error), by_policy=not isinstance(error, AbsenceUnproven))
            # Something was there, so this list was not empty.
            empty = 0
        except ProviderError as error:
            is_last = left <= -session.settings.submit_patience_seconds
            if _cannot_tell(error):
                return await _undecided(session, job, f"{job.provider} does not list its generations ({error})")
            if is_last and isinstance(error, InvalidResponse):
                return await _undecided(session, job, f"the list proves nothing ({error})")
            if is_last or not is_transient(error):
                raise
            logger.warning("shot %s: cannot reconcile yet: %s", job.shot.id, error)
        else:
            if found is not None:
                current = await _take(session, job, found)
                # Unchanged where another job has recorded the generation first: the search goes on.
                if current.state is not job.state:
                    return current
                if left <= -session.settings.submit_patience_seconds:
                    return await _undecided(session, job, f"{job.provider} lists {found.id}, which another job has")
            else:
                empty += 1
                if left <= 0 and empty >= _EMPTY_LISTS:
                    return await _conclude_absent(session, job)
        now = await session.ledger.now()
        # A list that takes long to read is read less often.
        delay = max(delay, (now - listed_at).total_seconds())
        await asyncio.sleep(_seconds_until_next_list(delay, settle_time.seconds_left(now)))
        delay = min(delay * 1.5, _RETRY_LIMIT_SECONDS)


async def _find(session: Session, job: Job, now: datetime) -> Generation | None:
    if (named := await _read_named(session, job)) is not None:
        return named
    # Sent by the ledger's clock; the provider's clock is compared with this machine's.
    sent_at = (job.sent_at or job.created_at) + (datetime.now(UTC) - now)
    known = await session.ledger.jobs.recorded_generations(job.account, job.key_fingerprint)
    shot = await _with_images(session, job)

    async def search(provider: Provider) -> Generation | None:
        return await provider.find_unclaimed(shot, idempotency_key=job.id, sent_at=sent_at, known=known)

    try:
        return await search_sent(session, job, search)
    except UnclaimedFound as error:
        # The ledger is read after the list, so that it knows whatever the list can show of other jobs.
        if await are_of_other_jobs(session, job, error.candidates, known):
            return None
        raise


async def _with_images(session: Session, job: Job) -> Shot:
    """Return a job's shot with its images as local files, so that they can be compared with what is echoed."""
    if not job.shot.images:
        return job.shot
    try:
        return with_local_images(job.shot, await ImageLoader(session, job.project).load(job.shot))
    except (InvalidInput, StoreError) as error:
        logger.warning("shot %s: its images cannot be compared: %s", job.shot.id, error)
        return job.shot


async def _may_clear_up(session: Session, job: Job, error: HeldForReview) -> bool:
    """Return whether another look may decide: a generation could not be read now, or may be about to be recorded."""
    is_passing = isinstance(error, UnclaimedFound) and error.is_passing
    return is_passing or (isinstance(error, UnclaimedFound) and await is_another_being_sent(session, job))


async def _read_named(session: Session, job: Job) -> Generation | None:
    """Read the generation that the answer to the submit named; None where it named none, or it cannot be read."""
    generation_id = _find_named_id(job)
    if generation_id is None:
        return None
    owner = await find_other_job(session, job, generation_id)
    if owner is not None and is_taken_by_twin(job, owner):
        return None
    try:
        return await session.provider.retrieve(generation_id)
    except (ProviderError, InvalidInput) as error:
        logger.warning("shot %s: generation %s cannot be read: %s", job.shot.id, generation_id, error)
        return None


def _find_named_id(job: Job) -> str | None:
    return SubmitOutcomeUnknown.find_generation_id(job.error_message)


def _can_read_later(session: Session, job: Job) -> bool:
    """Return whether another read may find the generation: of the list, or of the one that the answer named."""
    return session.provider.capabilities.can_list or _find_named_id(job) is not None


async def _take(session: Session, job: Job, found: Generation) -> Job:
    try:
        job = await session.ledger.jobs.record_submitted(job.id, found, detail="reconciled: it was accepted")
    except InvalidTransition:
        owner = await find_other_job(session, job, found.id)
        if owner is not None and (found.id == _find_named_id(job) or echoes_key(found, job.id)):
            raise await hold_conflict(session, job, found.id, owner) from None
        # Two jobs with the same prompt saw the same generation: the other one has it now.
        return await session.ledger.jobs.get(job.id)
    session.fresh_generations.put(found)
    session.notify(SessionEvent.SUBMITTED, job, "reconciled")
    return job


def _cannot_tell(error: ProviderError) -> bool:
    """Return whether the list was refused for good, as where there is none, and not because of key or quota."""
    passing = error.retryable or isinstance(error, AuthenticationFailed | QuotaExhausted)
    return isinstance(error, RequestRejected) and not passing


def _seconds_until_next_list(delay: float, left: float) -> float:
    """Return the seconds until the next read of the list: one comes right after the settle time, and decides."""
    return min(delay, left + 0.01) if left > 0 else delay


async def _conclude_absent(session: Session, job: Job) -> Job:
    """Return a job to reserved, as the lists are empty; one whose answer named a generation is held instead."""
    if _find_named_id(job) is not None:
        return await _undecided(session, job, f"{job.provider} does not list its generation")
    return await session.ledger.jobs.return_to_reserved(job.id, "reconciled: proven absent at the provider")


async def _undecided(session: Session, job: Job, reason: str, *, by_policy: bool = True) -> Job:
    named = _find_named_id(job)
    if named is not None:
        # Not sent again by policy either: the policy is for submits about which nothing is known.
        reason = f"{reason}; the answer to it named generation {named}, which cannot be read"
    elif by_policy and session.settings.on_unknown == "resubmit":
        return await session.ledger.jobs.return_to_reserved(job.id, f"sent again by policy: {reason}")
    message = hold_message(
        HoldReason.SUBMIT_UNANSWERED,
        job=job.id,
        shot=job.shot.id,
        ledger=session.ledger.command_option,
        cause=reason,
    )
    await session.ledger.jobs.hold(job.id, message)
    raise HeldForReview(message)
