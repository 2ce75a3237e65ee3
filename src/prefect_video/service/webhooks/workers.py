"""The work behind the receiver: events are handled one after the other by a few workers, and none is forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from prefect_video.errors import LedgerError, VideoError
from prefect_video.ledger import Ledger, ReceivedEvent
from prefect_video.service.metrics import Metrics
from prefect_video.service.settings import ServiceSettings
from prefect_video.service.webhooks.handler import UnknownGeneration

logger = logging.getLogger(__name__)

Key = tuple[str, str]
Handle = Callable[[ReceivedEvent], Awaitable[None]]

_RECENT = timedelta(days=3)
_LINK_LIFE = timedelta(hours=1)
_LONGEST_REST_SECONDS = 3600.0
_MARKED_AT_ONCE = 50


class _Backoff(NamedTuple):
    """An event that is left alone: how often before, and until when by the loop's clock."""

    times: int
    until: float


class Workers:
    """Handles events in the background.

    The ledger is the queue: what does not fit into memory, what failed too often and what a dead process left is
    found there again.

    Args:
        handle: Handles one event.
        ledger: Where the events are.
        accounts: Whose events are handled.
        settings: How often and how soon they are tried.
        metrics: Counts.
        stranger_seconds: How old an event is before its generation, which the ledger does not know, counts as
            somebody else's: one whose submit was not answered is recorded once it was found at the provider.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        ledger: Ledger,
        accounts: frozenset[str],
        settings: ServiceSettings,
        metrics: Metrics,
        stranger_seconds: float,
    ) -> None:
        self._handle = handle
        self._ledger = ledger
        self._accounts = accounts
        self._settings = settings
        self._metrics = metrics
        self._stranger_age = timedelta(seconds=stranger_seconds)
        self._queue: asyncio.Queue[ReceivedEvent] = asyncio.Queue()
        self._known: set[Key] = set()
        self._tries: dict[Key, int] = {}
        self._put_aside: dict[Key, _Backoff] = {}
        self._overflowed = False
        self._done: list[ReceivedEvent] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to work, with what an earlier process left."""
        self._tasks = [asyncio.create_task(self._work(), name="webhook worker") for _ in range(self._settings.workers)]
        self._tasks.append(asyncio.create_task(self._sweep(), name="webhook sweep"))

    async def aclose(self) -> None:
        """Stops; what is not handled stays in the ledger."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._done:
            await self._mark()

    def enqueue(self, event: ReceivedEvent) -> None:
        """Takes an event that is written down already; one that does not fit is fetched from the ledger later."""
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
        while True:
            event = await self._queue.get()
            await self._try(event)
            if self._done and (self._queue.empty() or len(self._done) >= _MARKED_AT_ONCE):
                await self._mark()
            if self._overflowed and self._queue.empty():
                await self._refill(timedelta(0))

    async def _try(self, event: ReceivedEvent) -> None:
        try:
            await self._handle(event)
            self._done.append(event)
        except VideoError as error:
            self._retry(event, error)
        except Exception:
            logger.exception("webhook event %s of %s: unexpected error", event.event_id, event.account)
            self._postpone(event)

    def _retry(self, event: ReceivedEvent, error: VideoError) -> None:
        key = _key(event)
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if tries < self._settings.attempts:
            self._metrics.handled.labels("retried").inc()
            delay = max(self._settings.retry_seconds * 2 ** (tries - 1), error.retry_after or 0.0)
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, event)
        elif isinstance(error, UnknownGeneration) and datetime.now(UTC) - event.received_at >= self._stranger_age:
            # Somebody else uses the same key: their generations are none of our business.
            self._metrics.handled.labels("stranger").inc()
            self._done.append(event)
        else:
            logger.error("webhook event %s of %s: left for a later sweep, %s", event.event_id, event.account, error)
            self._postpone(event)

    async def _mark(self) -> None:
        """Notes what is done, in one transaction; what is not noted is handled again, which changes nothing."""
        done, self._done = self._done, []
        try:
            await self._ledger.events.mark_handled(done)
        except LedgerError as error:
            logger.warning("%d handled events are not noted, and handled again later: %s", len(done), error)
        for event in done:
            self._forget(event)

    def _postpone(self, event: ReceivedEvent) -> None:
        """Leaves an event to a later sweep, so that trouble that lasts costs neither memory nor the other events."""
        key = _key(event)
        times = self._put_aside[key].times + 1 if key in self._put_aside else 0
        rest = min(self._settings.sweep_seconds * 2.0 ** min(times, 30), _LONGEST_REST_SECONDS)
        self._put_aside[key] = _Backoff(times, asyncio.get_running_loop().time() + rest)
        self._forget(event)
        self._metrics.handled.labels("put_aside").inc()

    def _is_postponed(self, key: Key) -> bool:
        aside = self._put_aside.get(key)
        return aside is not None and asyncio.get_running_loop().time() < aside.until

    def _forget(self, event: ReceivedEvent) -> None:
        self._known.discard(_key(event))
        self._tries.pop(_key(event), None)
        self._metrics.backlog.set(len(self._known))

    async def _sweep(self) -> None:
        await self._refill(timedelta(0))
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            # Younger ones are somebody's at this moment.
            await self._refill(timedelta(seconds=self._settings.sweep_seconds))
            now = datetime.now(UTC)
            try:
                await self._ledger.events.forget_events(
                    before=now - timedelta(days=self._settings.keep_days), reported_before=now - _LINK_LIFE
                )
            except LedgerError as error:
                logger.warning("old webhook events are not removed now: %s", error)

    async def _refill(self, age: timedelta) -> None:
        now = datetime.now(UTC)
        self._overflowed = False
        try:
            pending = await self._ledger.events.pending_events(
                self._accounts, since=now - _RECENT, limit=self._settings.backlog + len(self._put_aside)
            )
        except LedgerError as error:
            logger.warning("events that wait in the ledger are not read now: %s", error)
            return
        keys = {_key(event) for event in pending}
        self._put_aside = {key: aside for key, aside in self._put_aside.items() if key in keys}
        for event in pending:
            if event.received_at <= now - age:
                self.enqueue(event)
        if len(pending) - len(self._put_aside) >= self._settings.backlog:
            self._overflowed = True


def _key(event: ReceivedEvent) -> Key:
    return event.account, event.event_id
