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

from prefect_video._shield import to_its_end
from prefect_video.errors import (
    CircuitOpen,
    IllegalTransition,
    ProviderError,
    ProviderUnavailable,
    RequestRefused,
    SubmitUnknown,
)
from prefect_video.ledger import Entry, State
from prefect_video.pipeline.steps.adopt import require_unpaid
from prefect_video.pipeline.steps.claim import refuse_blocked
from prefect_video.pipeline.steps.end import demand_alive
from prefect_video.pipeline.steps.labels import add_labels
from prefect_video.pipeline.steps.reconcile import reconcile
from prefect_video.pipeline.steps.submit_result import record, record_failure
from prefect_video.session.session import SessionEvent, Studio

_SLOT_SECONDS: Final = 0.5
"""Between two looks for a free slot of the account."""
_BREAKER_SECONDS: Final = 5.0
"""Between two looks at an open breaker at the most: it may close before its time."""
_LONGEST_DELAY_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 5.0
"""How long after its intent was written a request may leave without another look at the row."""

logger = logging.getLogger(__name__)


class _Patience:
    """The time that one submit is tried for: the time turned away counts, not that in the queue for a slot.

    Attributes:
        left: Seconds.
    """

    def __init__(self, studio: Studio) -> None:
        self.left = studio.settings.submit_patience_seconds
        self._fails_fast = studio.settings.on_open == "fail"
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


async def submit(studio: Studio, entry: Entry, *, task_run_id: str | None = None) -> Entry:
    """Brings a reserved row to submitted, with at most one accepted payment, whatever went before.

    Returns:
        The row, submitted or further on.

    Raises:
        RequestRefused: The provider turned it down for good, or stopped the prompt before; the reservation is
            released.
        GenerationFailed: It was accepted and failed at once.
        GenerationEnded: Somebody ended the row while it waited for its turn, a cancel command for example.
        NeedsAttention: Nobody can tell whether it was accepted.
        LedgerBehindStore: The store shows that it was paid before.
        ProviderUnavailable: Turned away for longer than the studio's patience; nothing was accepted.
    """
    # Read again: the row may have waited long for its slot.
    entry = await _booked_here(studio, await studio.ledger.get(entry.id))
    if entry.state is State.SUBMITTING:
        # Only a row taken over from an owner that died between intent and record is found like this.
        entry = await studio.ledger.record_unknown(entry.id, "its owner died between sending and recording")
    if entry.state is State.RESERVED:
        await require_unpaid(studio, entry)
    patience = _Patience(studio)
    while entry.state in (State.RESERVED, State.UNKNOWN):
        if entry.state is State.UNKNOWN:
            began = asyncio.get_running_loop().time()
            entry = await reconcile(studio, entry)
            patience.left -= asyncio.get_running_loop().time() - began
            if entry.state is State.RESERVED and patience.left < 0:
                raise ProviderUnavailable(
                    f"shot {entry.shot.id!r}: {entry.provider} has not answered a submit for"
                    f" {studio.settings.submit_patience_seconds:.0f} s; nothing was accepted: run again later",
                    provider=entry.provider,
                )
            continue
        await refuse_blocked(studio, entry)
        try:
            entry = await _send(studio, entry, task_run_id)
        except (RequestRefused, ProviderUnavailable) as error:
            delay = patience.delay(error)
            if delay is None:
                raise
            patience.left -= delay
            level = logging.DEBUG if isinstance(error, CircuitOpen) else logging.INFO
            logger.log(level, "shot %s: turned away, sending again in %.1f s: %s", entry.shot.id, delay, error)
            await asyncio.sleep(delay)
            entry = await studio.ledger.get(entry.id)
    return demand_alive(entry)


async def _send(studio: Studio, entry: Entry, task_run_id: str | None) -> Entry:
    await studio.pace.next()
    await _watch_volume(studio, entry)
    try:
        entry = await _still_to_be_sent(studio, await _take_slot(studio, entry, task_run_id))
    except IllegalTransition:
        demand_alive(await studio.ledger.get(entry.id))
        raise
    studio.tell(SessionEvent.BEFORE_SEND, entry)
    try:
        async with _answer_in_time(studio, entry):
            generation = await studio.provider.submit(
                add_labels(entry, studio.ledger.identity),
                idempotency_key=entry.id,
                project=entry.project,
                webhook_url=studio.webhook_url(entry),
            )
    except BaseException as error:
        # Also when cancelled, or for a defect of ours: the request is perhaps on its way.
        after = await to_its_end(record_failure(studio, entry, error))
        if isinstance(error, SubmitUnknown):
            return after
        raise
    studio.tell(SessionEvent.ANSWERED, entry)
    return await to_its_end(record(studio, entry, generation))


@contextlib.asynccontextmanager
async def _answer_in_time(studio: Studio, entry: Entry) -> AsyncIterator[None]:
    """Limit how long the answer to a submit is waited for.

    No longer than after which others may take this process for dead, find nothing and send in its place.

    Raises:
        SubmitUnknown: There was no answer in time.
    """
    limit = studio.settings.lease_seconds + studio.settings.settle_seconds
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError as error:
        raise SubmitUnknown(
            f"{entry.provider}: the submit had no answer within {limit:.0f} s", provider=entry.provider
        ) from error


async def _booked_here(studio: Studio, entry: Entry) -> Entry:
    """A row that another account had reserved, and this one is going to send."""
    account = studio.provider.account.id
    if entry.state is not State.RESERVED or entry.account == account:
        return entry
    return await studio.ledger.rebook(entry.id, account=account, credentials=studio.credentials)


async def _still_to_be_sent(studio: Studio, entry: Entry) -> Entry:
    """The row, once it has only just been marked as about to be sent.

    A process that was paused in between may have been taken for dead, and its row be sent by another.

    Raises:
        IllegalTransition: It was.
    """
    while (await studio.ledger.now() - (entry.sent_at or entry.updated_at)).total_seconds() > _PAUSE_SECONDS:
        entry = await studio.ledger.renew_submit(entry.id)
    return entry


async def _take_slot(studio: Studio, entry: Entry, task_run_id: str | None) -> Entry:
    """Begins the submit as soon as the account has a slot, in the order of priority and time.

    The breaker is asked at each look: it may open, and a quota be used up, while one waits.
    """
    began = trying = False
    # One of a process asks at a time: the others come after it anyway.
    async with studio.slot_queue.of(entry.priority) as turn:
        try:
            while True:
                studio.slot_freed.clear()
                trying = trying or await studio.breaker.admit()
                taken = await studio.ledger.take_slot(
                    entry.id,
                    slots=studio.account_slots,
                    task_run_id=task_run_id,
                    deadline_at=datetime.now(UTC) + timedelta(seconds=studio.settings.deadline_seconds),
                )
                if taken is not None:
                    began = True
                    return taken
                with contextlib.suppress(TimeoutError):
                    # Our own generations tell when they end; those of other processes are looked for.
                    async with asyncio.timeout(random.uniform(0.5, 1.0) * _SLOT_SECONDS):
                        await studio.slot_freed.wait()
                await turn.give_way()
        finally:
            if not began:
                await to_its_end(_step_aside(studio, entry, trying))


async def _step_aside(studio: Studio, entry: Entry, trying: bool) -> None:
    if trying:
        await studio.breaker.withdraw()
    await studio.ledger.stop_waiting(entry.id)


async def _watch_volume(studio: Studio, entry: Entry) -> None:
    limit = studio.settings.anomalous_per_hour
    if limit is None:
        return
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    sent = await studio.ledger.submissions_since(entry.account, hour_ago)
    last = studio.volume_alert_at
    # Several may be sent between two counts, so the very number need not be seen; once an hour is enough.
    if sent >= limit and (last is None or last < hour_ago):
        studio.volume_alert_at = datetime.now(UTC)
        logger.error("ALERT: account %s has submitted %d generations within an hour", entry.account, sent)
        studio.tell(SessionEvent.ANOMALY, entry, f"{sent} submissions within an hour")
