"""The workers behind the receiver: a few tasks handle stored events, with retries and sweeps of the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from prefect_video.errors import LedgerError, VideoError
from prefect_video.ledger import Ledger, ReceivedEvent
from prefect_video.service.metrics import Metrics
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.webhooks.handler import UnknownGeneration

logger = logging.getLogger(__name__)

Key = tuple[str, str]
Handle = Callable[[ReceivedEvent], Awaitable[None]]

_RECENT: Final = timedelta(days=3)
"""Age up to which an event is handled: later, the sweep of unfinished jobs has settled its generation."""

_LINK_LIFE: Final = timedelta(hours=1)
"""Time for which a generation read for an event is kept: download links expire after about an hour."""

_LONGEST_BACKOFF_SECONDS: Final = 3600.0

_MARKED_AT_ONCE: Final = 50
"""Handled events per transaction under load; more would be handled again after a crash."""


class _Backoff(NamedTuple):
    """A postponement of an event.

    Attributes:
        times: Earlier postponements.
        until: The end of this one, by the event loop's clock.
    """

    times: int
    until: float


class Workers:
    """Background workers that handle events.

    The ledger is the queue: events that do not fit into memory, have failed too often, or were left by a dead process
    are read from it again.

    Args:
        handle: Handles one event.
        ledger: The ledger of the events.
        accounts: The ids of the accounts whose events are handled.
        settings: The numbers and delays of workers, attempts and sweeps.
        metrics: Counts the events by outcome.
        unknown_seconds: Age from which an event of an unknown generation counts as other software's. A younger one
            may belong to an unanswered submit, which is recorded once it was found at the provider.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        ledger: Ledger,
        accounts: frozenset[str],
        settings: ServiceSettings,
        metrics: Metrics,
        unknown_seconds: float,
    ) -> None:
        self._handle = handle
        self._ledger = ledger
        self._accounts = accounts
        self._settings = settings
        self._metrics = metrics
        self._unknown_age = timedelta(seconds=unknown_seconds)
        self._queue: asyncio.Queue[ReceivedEvent] = asyncio.Queue()
        self._known: set[Key] = set()
        self._attempts: dict[Key, int] = {}
        self._postponed: dict[Key, _Backoff] = {}
        self._overflowed = False
        self._done: list[ReceivedEvent] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers, beginning with the events that an earlier process left."""
        self._tasks = [asyncio.create_task(self._work(), name="webhook worker") for _ in range(self._settings.workers)]
        self._tasks.append(asyncio.create_task(self._sweep(), name="webhook sweep"))

    async def aclose(self) -> None:
        """Cancel the workers; events that are not handled stay in the ledger."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._done:
            await self._mark_handled()

    def enqueue(self, event: ReceivedEvent) -> None:
        """Queue a stored event; one that does not fit into memory is read from the ledger later."""
        key = _key(event)
        if key in self._known or self._is_postponed(key):
            return
        if len(self._known) >= self._settings.backlog:
            self._overflowed = True
            return
        self._known.add(key)
        self._metrics.backlog.set(len(self._known))
        self._queue.put_nowait(event)

    async def _work(self) -> None:
        """Handle events from the queue until cancelled."""
        while True:
            event = await self._queue.get()
            await self._attempt(event)
            if self._done and (self._queue.empty() or len(self._done) >= _MARKED_AT_ONCE):
                await self._mark_handled()
            if self._overflowed and self._queue.empty():
                await self._refill(timedelta(0))

    async def _attempt(self, event: ReceivedEvent) -> None:
        try:
            await self._handle(event)
            self._done.append(event)
        except VideoError as error:
            self._retry_later(event, error)
        except Exception:
            logger.exception("webhook event %s of %s: unexpected error", event.event_id, event.account)
            self._postpone(event)

    def _retry_later(self, event: ReceivedEvent, error: VideoError) -> None:
        """Schedule the next attempt of an event, or dismiss or postpone it after the last one."""
        key = _key(event)
        attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
        if attempts < self._settings.attempts:
            self._metrics.handled.labels("retried").inc()
            delay = max(self._settings.retry_seconds * 2 ** (attempts - 1), error.retry_after or 0.0)
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, event)
        elif isinstance(error, UnknownGeneration) and datetime.now(UTC) - event.received_at >= self._unknown_age:
            # Made by other software with the same key.
            self._metrics.handled.labels("unknown").inc()
            self._done.append(event)
        else:
            logger.error(
                "webhook event %s of %s: postponed to a later sweep after its last attempt: %s",
                event.event_id,
                event.account,
                error,
            )
            self._postpone(event)

    async def _mark_handled(self) -> None:
        """Mark the handled events in one transaction; an unmarked one is handled again, which changes nothing."""
        done, self._done = self._done, []
        try:
            await self._ledger.events.mark_handled(done)
        except LedgerError as error:
            logger.warning("%d handled events could not be marked and are handled again later: %s", len(done), error)
        for event in done:
            self._forget(event)

    def _postpone(self, event: ReceivedEvent) -> None:
        """Leave an event to a later sweep, so that a lasting failure costs neither memory nor the other events."""
        key = _key(event)
        times = self._postponed[key].times + 1 if key in self._postponed else 0
        delay = min(self._settings.sweep_seconds * 2.0 ** min(times, 30), _LONGEST_BACKOFF_SECONDS)
        self._postponed[key] = _Backoff(times, asyncio.get_running_loop().time() + delay)
        self._forget(event)
        self._metrics.handled.labels("postponed").inc()

    def _is_postponed(self, key: Key) -> bool:
        backoff = self._postponed.get(key)
        return backoff is not None and asyncio.get_running_loop().time() < backoff.until

    def _forget(self, event: ReceivedEvent) -> None:
        self._known.discard(_key(event))
        self._attempts.pop(_key(event), None)
        self._metrics.backlog.set(len(self._known))

    async def _sweep(self) -> None:
        """Read pending events from the ledger at intervals, and delete old ones."""
        await self._refill(timedelta(0))
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            # A younger event is probably in the memory of another process, which is about to handle it.
            await self._refill(timedelta(seconds=self._settings.sweep_seconds))
            now = datetime.now(UTC)
            try:
                await self._ledger.events.forget_events(
                    before=now - timedelta(days=self._settings.keep_days), reported_before=now - _LINK_LIFE
                )
            except LedgerError as error:
                logger.warning("old webhook events cannot be deleted now, the next sweep tries again: %s", error)

    async def _refill(self, age: timedelta) -> None:
        """Queue the pending events of the ledger that have a minimum age."""
        now = datetime.now(UTC)
        self._overflowed = False
        try:
            pending = await self._ledger.events.pending_events(
                self._accounts, since=now - _RECENT, limit=self._settings.backlog + len(self._postponed)
            )
        except LedgerError as error:
            logger.warning("pending webhook events cannot be read now, the next sweep tries again: %s", error)
            return
        keys = {_key(event) for event in pending}
        self._postponed = {key: backoff for key, backoff in self._postponed.items() if key in keys}
        for event in pending:
            if event.received_at <= now - age:
                self.enqueue(event)
        if len(pending) - len(self._postponed) >= self._settings.backlog:
            self._overflowed = True


def _key(event: ReceivedEvent) -> Key:
    return event.account, event.event_id
