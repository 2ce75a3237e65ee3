"""Submit: the one step that pays.

The intent is in the ledger before the request leaves, and the provider's id right after; an interruption in between is
reconciled with the provider before anything is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect_video._counted import counted
from prefect_video._shield import shielded
from prefect_video.errors import (
    CircuitOpen,
    InvalidInput,
    InvalidTransition,
    ProviderError,
    ProviderUnavailable,
    RequestRejected,
    StoreError,
    SubmitOutcomeUnknown,
)
from prefect_video.ledger import Job, State
from prefect_video.pipeline.steps.adopt import require_unpaid
from prefect_video.pipeline.steps.claim import require_writable
from prefect_video.pipeline.steps.end import raise_if_ended, require_same_account
from prefect_video.pipeline.steps.job_requests import compute_fingerprint
from prefect_video.pipeline.steps.labels import add_labels
from prefect_video.pipeline.steps.reconcile import reconcile
from prefect_video.pipeline.steps.remix_original import require_original
from prefect_video.pipeline.steps.screen import refuse_blocked
from prefect_video.pipeline.steps.shot_images import ImageLoader, with_local_images
from prefect_video.pipeline.steps.spans import traced_step
from prefect_video.pipeline.steps.submit_result import record_failure, record_submit
from prefect_video.providers import Provider
from prefect_video.session import Session, SessionEvent
from prefect_video.shots import Shot

_SLOT_SECONDS: Final = 0.5
"""Longest time between two queries for a free slot of the account."""
_BREAKER_SECONDS: Final = 5.0
"""Longest time between two checks of an open breaker: it may close before its time."""
_LONGEST_DELAY_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 5.0
"""Greatest age of an intent when its request leaves; an older one is refreshed, as its owner may have been paused."""

logger = logging.getLogger(__name__)


class _SubmitRetry:
    """The patience of one submit: the time of rejections counts, not that in the queue for a slot.

    Attributes:
        left: Seconds left.
    """

    def __init__(self, session: Session) -> None:
        self.left = session.settings.submit_patience_seconds
        self._fails_fast = session.settings.on_open == "fail"
        self._refusals = 0

    def delay(self, error: ProviderError) -> float | None:
        """Return the seconds after which to send again; None where the error is final or the patience is used up."""
        requested = error.retry_after or 0.0
        if isinstance(error, CircuitOpen):
            # Nothing was sent, so there is no load to back off from.
            # Spread, or all waiting shots would come back at the same moment.
            delay = min(requested, _BREAKER_SECONDS) * random.uniform(1.0, 1.2)
            refused = self._fails_fast
        else:
            self._refusals += 1
            delay = max(requested, random.uniform(0, min(_LONGEST_DELAY_SECONDS, 0.5 * 2.0 ** min(self._refusals, 30))))
            refused = not error.retryable
        # A wait that outlasts the patience is not begun: the error is reported now, not after it.
        return None if refused or max(requested, delay) > self.left else delay


@traced_step("submit")
async def submit(session: Session, job: Job, *, task_run_id: str | None = None, leave: bool = False) -> Job:
    """Bring a reserved or unanswered job to submitted, with at most one accepted payment.

    Args:
        session: The account that sends it.
        job: The job.
        task_run_id: The task run that sends it.
        leave: Give up the ownership of the job once it is accepted: this process does not wait for its end.

    Returns:
        The job, submitted or further on.

    Raises:
        RequestRejected: The provider rejected it for good, or stopped the prompt before; the reservation is released.
        GenerationFailed: It was accepted and failed at once.
        GenerationEnded: Another process ended the job while it waited, a cancel command for example.
        HeldForReview: It cannot be found out if it was accepted.
        LedgerBehindStore: The store shows that it was paid before.
        StoreError: The video could not be published; nothing was sent.
        ProviderUnavailable: Rejected for longer than the session's patience; nothing was accepted.
    """
    await session.take_slot(job)
    # Read again: the job may have waited long for its slot. Thousands may wait from here: none holds its row twice.
    current, blocked_by = await session.ledger.reviews.get_with_block(job.id)
    job = job if current == job else current
    del current
    if job.state is State.SUBMITTING:
        # Only a job that was taken over from an owner that died between intent and record is in this state here.
        job = await session.ledger.jobs.record_unknown(job.id, "its owner died between sending and recording")
    if job.state is State.RESERVED:
        # A claim makes another account's reservation anew, within the limits of the account that sends it.
        require_same_account(session, job)
        await require_unpaid(session, job)
        await require_original(session, job)
    patience = _SubmitRetry(session)
    while job.state in (State.RESERVED, State.UNKNOWN):
        if job.state is State.UNKNOWN:
            # Reconciling counts: a provider that loses every answer must not be tried without end.
            began = asyncio.get_running_loop().time()
            job = await reconcile(session, job)
            patience.left -= asyncio.get_running_loop().time() - began
            job, blocked_by = await session.ledger.reviews.get_with_block(job.id)
            if job.state is State.RESERVED and patience.left < 0:
                raise ProviderUnavailable(
                    f"shot {job.shot.id!r}: {job.provider} has not answered a submit for"
                    f" {session.settings.submit_patience_seconds:.0f} s; nothing was accepted: run again later",
                    provider=job.provider,
                )
            continue
        if blocked_by is not None:
            await refuse_blocked(session, job, blocked_by)
        # Made by the claim already, but where this process resumes a job that another one has claimed.
        await require_writable(session)
        try:
            async with AsyncExitStack() as turn:
                begun, sender, shot = await _begin(session, job, task_run_id, turn)
                job = await _send(session, begun, sender, shot, leave)
        except (RequestRejected, ProviderUnavailable) as error:
            delay = patience.delay(error)
            if delay is None:
                raise
            patience.left -= delay
            # Every waiting shot meets an open breaker again and again, which has been reported once.
            level = logging.DEBUG if isinstance(error, CircuitOpen) else logging.INFO
            logger.log(level, "shot %s: submit rejected, sending again in %.1f s: %s", job.shot.id, delay, error)
            await asyncio.sleep(delay)
            job, blocked_by = await session.ledger.reviews.get_with_block(job.id)
    return raise_if_ended(job)


async def _begin(
    session: Session, job: Job, task_run_id: str | None, turn: AsyncExitStack
) -> tuple[Job, Provider, Shot]:
    """Wait until a job may be sent, and record that it is.

    Args:
        session: The account that sends it.
        job: The job.
        task_run_id: The task run that sends it.
        turn: Holds one of the session's turns to send when this returns.

    Returns:
        What `_prepare` returns.
    """
    await _check_submit_volume(session, job)
    try:
        job = await _acquire_slot(session, job, task_run_id, turn)
        return await _prepare(session, job)
    except InvalidTransition:
        # A cancel command may have ended it in the queue: that is the reason to report.
        raise_if_ended(await session.ledger.jobs.get(job.id))
        raise


async def _send(session: Session, job: Job, sender: Provider, shot: Shot, leave: bool) -> Job:
    """Send the request that pays, and record its outcome."""
    session.notify(SessionEvent.BEFORE_SEND, job)
    session.step_priority.end_urgent(job.id)
    try:
        async with _answer_in_time(session, job):
            generation = await sender.submit(
                shot,
                # The same key for each send of the job: a provider that honours keys then refuses a second payment.
                idempotency_key=job.id,
                project=job.project,
                webhook_url=session.webhook_url(job),
            )
    except BaseException as error:
        # Also when cancelled, or for a defect of this package: the request may have been accepted.
        # Shielded: a cancellation must not separate the request from its record.
        recorded = await shielded(record_failure(session, job, error))
        if isinstance(error, SubmitOutcomeUnknown):
            return recorded
        raise
    session.notify(SessionEvent.ANSWERED, job)
    # Shielded: the id of what was just paid is lost if this is cancelled.
    recorded = await shielded(record_submit(session, job, generation, leave=leave))
    await session.remind_of_old_key()
    return recorded


async def _prepare(session: Session, job: Job) -> tuple[Job, Provider, Shot]:
    """Do what remains to be done before the request of a job that has its slot; interrupted, it is reserved again.

    Returns:
        The job with a fresh intent, the provider with its key, and its shot as it is sent.

    Raises:
        RequestRejected: It cannot be sent; the reservation is released.
        InvalidTransition: Another process has taken the job over.
        LedgerError: The ledger cannot be used; nothing was sent.
    """
    try:
        # The key that is on record, although another one may be in use by now: evidence about the submit is its.
        sender = session.provider_with_key(job.key_fingerprint)
        if sender is None:
            # Never another key's: that one's list would show nothing, which would count as proof of absence.
            raise RequestRejected(
                f"shot {job.shot.id!r}: the key {job.key_fingerprint} that it was to be sent with is not in use any"
                " more; nothing was sent: run again",
                provider=job.provider,
            )
        shot = await _load_shot(session, job)
        return await _refresh_intent(session, job), sender, shot
    except RequestRejected as error:
        await shielded(record_failure(session, job, error))
        raise
    except BaseException:
        session.step_priority.end_urgent(job.id)
        # It would seem to be sent, and wait for the settle time in vain.
        await shielded(session.ledger.jobs.take_back_begin(job))
        raise


async def _load_shot(session: Session, job: Job) -> Shot:
    """Return a job's shot with its labels, and with its images as local files.

    Raises:
        RequestRejected: An image cannot be read, or is not the one that the job was claimed with; nothing was sent.
    """
    shot = add_labels(job, session.ledger.identity)
    if not shot.images:
        return shot
    try:
        files = await ImageLoader(session, job.project).load(shot)
    except (InvalidInput, StoreError) as error:
        raise RequestRejected(f"{error}; nothing was sent", provider=job.provider) from error
    if compute_fingerprint(session, job.shot, job.take, files) != job.fingerprint:
        raise RequestRejected(
            f"shot {shot.id!r}: {', '.join(shot.images)}: a file has changed since the shot was claimed; nothing was"
            " sent: run again, and the new file counts",
            provider=job.provider,
        )
    return with_local_images(shot, files)


@contextlib.asynccontextmanager
async def _answer_in_time(session: Session, job: Job) -> AsyncIterator[None]:
    """Limit the time that a submit may take to be answered.

    After it another process may take this one for dead, find nothing at the provider, and send in its place.

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


async def _refresh_intent(session: Session, job: Job) -> Job:
    """Return a job whose intent is fresh, refreshing it where this process was paused since.

    A process that was paused may have been taken for dead, and its job be sent by another one.

    Raises:
        InvalidTransition: Another process has taken the job over.
    """
    while (await session.ledger.now() - (job.sent_at or job.updated_at)).total_seconds() > _PAUSE_SECONDS:
        job = await session.ledger.jobs.refresh_submit(job.id)
    return job


async def _acquire_slot(session: Session, job: Job, task_run_id: str | None, turn: AsyncExitStack) -> Job:
    """Begin the submit as soon as the account has a slot, in the order of priority and time.

    All shots whose turn it is ask at once, and the ledger commits together what it grants. As soon as there is no slot
    for one, the first in the queue asks: those behind it cannot get a slot before it.

    Args:
        session: The account that sends the job.
        job: The job.
        task_run_id: The task run that sends it.
        turn: Holds one of the session's turns to send when this returns.
    """
    request = _SlotRequest(session, job, task_run_id, turn)
    try:
        if session.slot_queue.is_free and (taken := await request.send()):
            return taken
        async with session.slot_queue.acquire(job.priority) as place:
            while True:
                # Cleared before the query: a slot that is released during it ends the wait at once.
                session.slot_released.clear()
                if taken := await request.send():
                    return taken
                session.step_priority.end_urgent(job.id)
                with contextlib.suppress(TimeoutError):
                    # The end of a generation of this process wakes it up; for other processes' it queries again.
                    async with asyncio.timeout(random.uniform(0.5, 1.0) * _SLOT_SECONDS):
                        await session.slot_released.wait()
                await place.yield_to_higher()
    finally:
        if not request.is_granted:
            session.step_priority.end_urgent(job.id)
            # Shielded: a place that stays in the queue would block the account for other processes.
            await shielded(request.withdraw())


class _SlotRequest:
    """A job's request for a slot of its account.

    Attributes:
        is_granted: True once the job has its slot, and is submitting.
    """

    def __init__(self, session: Session, job: Job, task_run_id: str | None, turn: AsyncExitStack) -> None:
        self.is_granted = False
        self._session, self._job, self._task_run_id, self._turn = session, job, task_run_id, turn
        self._is_trial = False
        self._is_spaced = False

    async def send(self) -> Job | None:
        """Ask the ledger for the slot; return the job, submitting, or None where none is free.

        A turn to send comes first, and is kept with the slot: the job is on record as sent, and must leave at once.
        The submits of a minute are counted within it: behind it, those that waited for a turn would leave together.
        The breaker is checked each time, in the transaction that takes the slot: it may open, and a quota be used up,
        while the job waits.

        Raises:
            CircuitOpen: The breaker is open, or a quota is used up.
        """
        session = self._session
        await self._take_turn()
        while True:
            try:
                taken = await session.ledger.accounts.acquire_slot(
                    self._job.id,
                    slots=session.account_slots,
                    task_run_id=self._task_run_id,
                    key_fingerprint=session.provider.account.key_fingerprint,
                    # Counted from here, as the job may have waited for hours for its slot.
                    deadline_at=datetime.now(UTC) + timedelta(seconds=session.settings.deadline_seconds),
                    # The trial is the very submit that the half-open breaker refuses to others.
                    admit=None if self._is_trial else session.breaker.admit,
                )
            except CircuitOpen:
                # Half open, it lets one submit try.
                self._is_trial = await session.breaker.before_submit()
            else:
                self.is_granted = taken is not None
                if taken is None:
                    await self._turn.aclose()
                return taken

    async def _take_turn(self) -> None:
        session = self._session
        # A shot that waits for its turn is not urgent.
        session.step_priority.end_urgent(self._job.id)
        await self._turn.enter_async_context(session.submit_turns.acquire(self._job.priority))
        if not self._is_spaced:
            await session.rate_limiter.acquire()
            self._is_spaced = True
        session.step_priority.begin_urgent(self._job.id)

    async def withdraw(self) -> None:
        """Leave the queue, and let another submit try in place of this one."""
        if self._is_trial:
            await self._session.breaker.cancel_trial()
        await self._session.ledger.accounts.leave_slot_queue(self._job.id)


async def _check_submit_volume(session: Session, job: Job) -> None:
    limit = session.settings.anomalous_per_hour
    if limit is None:
        return
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    sent = await session.ledger.jobs.submissions_since(job.account, hour_ago)
    last = session.volume_alert_at
    # At least, not exactly: several may be sent between two counts. One alert an hour is enough.
    if sent >= limit and (last is None or last < hour_ago):
        session.volume_alert_at = datetime.now(UTC)
        logger.error("ALERT: account %s has submitted %s within an hour", job.account, counted(sent, "generation"))
        session.notify(SessionEvent.ANOMALY, job, f"{counted(sent, 'submission')} within an hour")
