"""The work behind the receiver: events are handled one after the other by a few workers, and none is forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from prefect_video.errors import LedgerError, VideoError
from prefect_video.ledger import Ledger, ReceivedEvent
from prefect_video.service.handling import Stranger
from prefect_video.service.metrics import Metrics
from prefect_video.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

Key = tuple[str, str]
Handle = Callable[[ReceivedEvent], Awaitable[None]]

_RECENT = timedelta(days=3)
_LINK_LIFE = timedelta(hours=1)
_MARKED_AT_ONCE = 50


class Workers:
    """Handles events in the background.

    The ledger is the queue: what does not fit into memory, what failed too often and what a dead process left is
    found there again.
    """

    def __init__(
        self, handle: Handle, *, ledger: Ledger, accounts: frozenset[str], settings: ServiceSettings, metrics: Metrics
    ) -> None:
        self._handle = handle
        self._ledger = ledger
        self._accounts = accounts
        self._settings = settings
        self._metrics = metrics
        self._queue: asyncio.Queue[ReceivedEvent] = asyncio.Queue()
        self._known: set[Key] = set()
        self._tries: dict[Key, int] = {}
        self._given_up: set[Key] = set()
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

    def offer(self, event: ReceivedEvent) -> None:
        """Takes an event that is written down already; one that does not fit is fetched from the ledger later."""
        key = _key(event)
        if key in self._known or key in self._given_up:
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
            logger.exception("webhook event %s of %s: unexpected error, given up", event.event_id, event.account)
            self._give_up(event)

    def _retry(self, event: ReceivedEvent, error: VideoError) -> None:
        key = _key(event)
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if tries < self._settings.attempts:
            self._metrics.handled.labels("retried").inc()
            delay = max(self._settings.retry_seconds * 2 ** (tries - 1), error.retry_after or 0.0)
            asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, event)
        elif isinstance(error, Stranger):
            # Somebody else uses the same key: their generations are none of our business.
            self._metrics.handled.labels("stranger").inc()
            self._done.append(event)
        else:
            logger.error("webhook event %s of %s: given up, %s", event.event_id, event.account, error)
            self._give_up(event)

    async def _mark(self) -> None:
        """Notes what is done, in one transaction; what is not noted is handled again, which changes nothing."""
        done, self._done = self._done, []
        try:
            await self._ledger.mark_handled(done)
        except LedgerError as error:
            logger.warning("%d handled events are not noted, and handled again later: %s", len(done), error)
        for event in done:
            self._forget(event)

    def _give_up(self, event: ReceivedEvent) -> None:
        self._given_up.add(_key(event))
        self._forget(event)
        self._metrics.handled.labels("given_up").inc()

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
                await self._ledger.forget_events(
                    before=now - timedelta(days=self._settings.keep_days), told_before=now - _LINK_LIFE
                )
            except LedgerError as error:
                logger.warning("old webhook events are not removed now: %s", error)

    async def _refill(self, age: timedelta) -> None:
        now = datetime.now(UTC)
        self._overflowed = False
        try:
            pending = await self._ledger.pending_events(
                self._accounts, since=now - _RECENT, limit=self._settings.backlog + len(self._given_up)
            )
        except LedgerError as error:
            logger.warning("events that wait in the ledger are not read now: %s", error)
            return
        for event in pending:
            if event.received_at <= now - age:
                self.offer(event)
        if len(pending) >= self._settings.backlog:
            self._overflowed = True


def _key(event: ReceivedEvent) -> Key:
    return event.account, event.event_id
