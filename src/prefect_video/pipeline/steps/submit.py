"""Submitting: the one step that pays.

The intent is in the ledger before the request leaves and the provider's id right after; whatever happens in
between is reconciled with the provider before anything is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video._shield import shielded
from prefect_video.errors import (
    CircuitOpen,
    InvalidTransition,
    ProviderError,
    ProviderUnavailable,
    RequestRejected,
    SubmitOutcomeUnknown,
)
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.adopt import require_unpaid
from prefect_video.pipeline.steps.claim import refuse_blocked
from prefect_video.pipeline.steps.end import raise_if_ended
from prefect_video.pipeline.steps.labels import add_labels
from prefect_video.pipeline.steps.reconcile import reconcile
from prefect_video.pipeline.steps.submit_result import record_failure, record_submit
from prefect_video.session import Session, SessionEvent

_SLOT_SECONDS: Final = 0.5
"""Between two looks for a free slot of the account."""
_BREAKER_SECONDS: Final = 5.0
"""Between two looks at an open breaker at the most: it may close before its time."""
_LONGEST_DELAY_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 5.0
"""How long after its intent was written a request may leave without another look at the row."""

logger = logging.getLogger(__name__)


class _SubmitRetry:
    """The time that one submit is tried for: the time turned away counts, not that in the queue for a slot.

    Attributes:
        left: Seconds.
    """

    def __init__(self, session: Session) -> None:
        self.left = session.settings.submit_patience_seconds
        self._fails_fast = session.settings.on_open == "fail"
        self._refusals = 0

    def delay(self, error: ProviderError) -> float | None:
        """After how many seconds to send again; None for not at all."""
        asked = error.retry_after or 0.0
        if isinstance(error, CircuitOpen):
            # Nothing was sent, so there is no load to back off from.
            delay = min(asked, _BREAKER_SECONDS) * random.uniform(1.0, 1.2)
            refused = self._fails_fast
        else:
            self._refusals += 1
            delay = max(asked, random.uniform(0, min(_LONGEST_DELAY_SECONDS, 0.5 * 2.0 ** min(self._refusals, 30))))
            refused = not error.retryable
        return None if refused or max(asked, delay) > self.left else delay


async def submit(session: Session, job: Job, *, task_run_id: str | None = None) -> Job:
    """Brings a reserved row to submitted, with at most one accepted payment, whatever went before.

    Returns:
        The row, submitted or further on.

    Raises:
        RequestRejected: The provider turned it down for good, or stopped the prompt before; the reservation is
            released.
        GenerationFailed: It was accepted and failed at once.
        GenerationEnded: Somebody ended the row while it waited for its turn, a cancel command for example.
        HeldForReview: Nobody can tell whether it was accepted.
        LedgerBehindStore: The store shows that it was paid before.
        ProviderUnavailable: Turned away for longer than the session's patience; nothing was accepted.
    """
    # Read again: the row may have waited long for its slot.
    job = await _assign_account(session, await session.ledger.jobs.get(job.id))
    if job.state is State.SUBMITTING:
        # Only a row taken over from an owner that died between intent and record is found like this.
        job = await session.ledger.jobs.record_unknown(job.id, "its owner died between sending and recording")
    if job.state is State.RESERVED:
        await require_unpaid(session, job)
    patience = _SubmitRetry(session)
    while job.state in (State.RESERVED, State.UNKNOWN):
        if job.state is State.UNKNOWN:
            began = asyncio.get_running_loop().time()
            job = await reconcile(session, job)
            patience.left -= asyncio.get_running_loop().time() - began
            if job.state is State.RESERVED and patience.left < 0:
                raise ProviderUnavailable(
                    f"shot {job.shot.id!r}: {job.provider} has not answered a submit for"
                    f" {session.settings.submit_patience_seconds:.0f} s; nothing was accepted: run again later",
                    provider=job.provider,
                )
            continue
        await refuse_blocked(session, job)
        try:
            job = await _send(session, job, task_run_id)
        except (RequestRejected, ProviderUnavailable) as error:
            delay = patience.delay(error)
            if delay is None:
                raise
            patience.left -= delay
            level = logging.DEBUG if isinstance(error, CircuitOpen) else logging.INFO
            logger.log(level, "shot %s: turned away, sending again in %.1f s: %s", job.shot.id, delay, error)
            await asyncio.sleep(delay)
            job = await session.ledger.jobs.get(job.id)
    return raise_if_ended(job)


async def _send(session: Session, job: Job, task_run_id: str | None) -> Job:
    await session.rate_limiter.acquire()
    await _check_submit_volume(session, job)
    try:
        job = await _refresh_intent(session, await _take_slot(session, job, task_run_id))
    except InvalidTransition:
        raise_if_ended(await session.ledger.jobs.get(job.id))
        raise
    session.notify(SessionEvent.BEFORE_SEND, job)
    try:
        async with _answer_in_time(session, job):
            generation = await session.provider.submit(
                add_labels(job, session.ledger.identity),
                idempotency_key=job.id,
                project=job.project,
                webhook_url=session.webhook_url(job),
            )
    except BaseException as error:
        # Also when cancelled, or for a defect of ours: the request is perhaps on its way.
        after = await shielded(record_failure(session, job, error))
        if isinstance(error, SubmitOutcomeUnknown):
            return after
        raise
    session.notify(SessionEvent.ANSWERED, job)
    return await shielded(record_submit(session, job, generation))


@contextlib.asynccontextmanager
async def _answer_in_time(session: Session, job: Job) -> AsyncIterator[None]:
    """Limit how long the answer to a submit is waited for.

    No longer than after which others may take this process for dead, find nothing and send in its place.

    Raises:
        SubmitOutcomeUnknown: There was no answer in time.
    """
    limit = session.settings.lease_seconds + session.settings.settle_seconds
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError as error:
        raise SubmitOutcomeUnknown(
            f"{job.provider}: the submit had no answer within {limit:.0f} s", provider=job.provider
        ) from error


async def _assign_account(session: Session, job: Job) -> Job:
    """A row that another account had reserved, and this one is going to send."""
    account = session.provider.account.id
    if job.state is not State.RESERVED or job.account == account:
        return job
    return await session.ledger.jobs.assign_account(job.id, account=account, credentials=session.credentials)


async def _refresh_intent(session: Session, job: Job) -> Job:
    """The row, once it has only just been marked as about to be sent.

    A process that was paused in between may have been taken for dead, and its row be sent by another.

    Raises:
        InvalidTransition: It was.
    """
    while (await session.ledger.now() - (job.sent_at or job.updated_at)).total_seconds() > _PAUSE_SECONDS:
        job = await session.ledger.jobs.refresh_submit(job.id)
    return job


async def _take_slot(session: Session, job: Job, task_run_id: str | None) -> Job:
    """Begins the submit as soon as the account has a slot, in the order of priority and time.

    The breaker is asked at each look: it may open, and a quota be used up, while one waits.
    """
    began = trying = False
    # One of a process asks at a time: the others come after it anyway.
    async with session.submit_turn.acquire(job.priority) as turn:
        try:
            while True:
                session.slot_released.clear()
                trying = trying or await session.breaker.before_submit()
                taken = await session.ledger.accounts.acquire_slot(
                    job.id,
                    slots=session.account_slots,
                    task_run_id=task_run_id,
                    deadline_at=datetime.now(UTC) + timedelta(seconds=session.settings.deadline_seconds),
                )
                if taken is not None:
                    began = True
                    return taken
                with contextlib.suppress(TimeoutError):
                    # Our own generations tell when they end; those of other processes are looked for.
                    async with asyncio.timeout(random.uniform(0.5, 1.0) * _SLOT_SECONDS):
                        await session.slot_released.wait()
                await turn.yield_to_higher()
        finally:
            if not began:
                await shielded(_leave_queue(session, job, trying))


async def _leave_queue(session: Session, job: Job, trying: bool) -> None:
    if trying:
        await session.breaker.cancel_trial()
    await session.ledger.accounts.leave_slot_queue(job.id)


async def _check_submit_volume(session: Session, job: Job) -> None:
    limit = session.settings.anomalous_per_hour
    if limit is None:
        return
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    sent = await session.ledger.jobs.submissions_since(job.account, hour_ago)
    last = session.volume_alert_at
    # Several may be sent between two counts, so the very number need not be seen; once an hour is enough.
    if sent >= limit and (last is None or last < hour_ago):
        session.volume_alert_at = datetime.now(UTC)
        logger.error("ALERT: account %s has submitted %d generations within an hour", job.account, sent)
        session.notify(SessionEvent.ANOMALY, job, f"{sent} submissions within an hour")
