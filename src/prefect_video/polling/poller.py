"""One poller per account and process: tasks await it, it owns the status requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from prefect_video.errors import DeadlineExceeded, NotFound, ProviderError
from prefect_video.generations import Generation
from prefect_video.polling.poll_queue import OnChange, PollQueue, PollTarget
from prefect_video.polling.schedule import CompletionEstimate, PollSchedule
from prefect_video.polling.status_requests import StatusRequests, denied_seconds, is_transient, lost_generation
from prefect_video.providers import Provider

__all__ = ["OnChange", "Poller", "is_transient"]

logger = logging.getLogger(__name__)

_REQUESTS_AT_ONCE: Final = 8


class Poller:
    """Waits for generations of one account; many waiters for one generation share one watch.

    One loop looks at whatever is due: at one generation by itself, at several by a list where that takes fewer
    requests. A polling error never loses a generation and never cancels one: the next look is taken later.

    Args:
        provider: Whose generations are watched.
        schedule: How densely to look.
        lost_after: How many answers in a row must say that a known id does not exist.
        pause: Says for how many seconds looks should hold, because the provider is in trouble; within those, one look
            is taken every `longest_seconds` of the schedule.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        schedule: PollSchedule | None = None,
        lost_after: int = 5,
        pause: Callable[[], float] | None = None,
    ) -> None:
        self._provider = provider
        self._schedule = schedule or PollSchedule()
        self._lost_after = lost_after
        self._pause = pause or _no_pause
        self._watches: dict[str, PollTarget] = {}
        self._agenda = PollQueue(self._schedule)
        self._inquiry = StatusRequests(
            provider, self._agenda, self._watches, schedule=self._schedule, lost_after=lost_after
        )
        self._room = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._requests: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    async def wait_for_end(
        self,
        generation_id: str,
        *,
        submitted_at: datetime,
        expected: CompletionEstimate,
        deadline_at: datetime | None = None,
        on_change: OnChange | None = None,
        relaxed: bool = False,
    ) -> Generation:
        """The generation once it has ended, with `lost` for one that the provider no longer knows.

        Args:
            generation_id: The provider's id.
            submitted_at: When it was accepted.
            expected: When it should be done.
            deadline_at: When to give up waiting.
            on_change: Called with each answer whose status differs from the one before.
            relaxed: Whether its end is announced in another way, so that looking is a fallback only.

        Raises:
            DeadlineExceeded: It has not ended by then, nor at a last look after it; it is left as it is.
            ProviderError: The key was refused.
        """
        watch = self._watches.get(generation_id)
        if watch is None or watch.done:
            watch = self._new_target(generation_id, submitted_at, expected)
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._join(watch, future, on_change, relaxed)
        try:
            async with asyncio.timeout(_seconds_until(deadline_at)):
                return await future
        except TimeoutError:
            return await self._poll_after_deadline(generation_id, deadline_at)
        finally:
            self._leave(watch, future)

    async def poll_once(self, generation_id: str) -> Generation:
        """The generation as it stands; `lost` once the provider has denied its id several times in a row.

        Raises:
            ProviderError: There was no usable answer.
        """
        for denied in range(1, self._lost_after + 1):
            try:
                return await self._provider.retrieve(generation_id)
            except NotFound:
                if denied < self._lost_after:
                    await asyncio.sleep(denied_seconds(self._schedule, denied))
        return lost_generation(self._provider, generation_id)

    async def aclose(self) -> None:
        """Ends all watches; the generations go on."""
        tasks = [*self._requests, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for watch in self._watches.values():
            watch.cancel()

    def _new_target(self, generation_id: str, submitted_at: datetime, expected: CompletionEstimate) -> PollTarget:
        began = _now() - (datetime.now(UTC) - submitted_at).total_seconds()
        watch = PollTarget(generation_id, began, expected)
        self._watches[generation_id] = watch
        return watch

    def _join(
        self, watch: PollTarget, future: asyncio.Future[Generation], on_change: OnChange | None, relaxed: bool
    ) -> None:
        first = not watch.waiters
        watch.waiters[future] = on_change
        sooner = watch.webhook_expected and not relaxed
        watch.webhook_expected = relaxed if first else watch.webhook_expected and relaxed
        if first or (sooner and not watch.request_in_flight):
            self._agenda.schedule(watch)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=f"watch {self._provider.account.id}")

    def _leave(self, watch: PollTarget, future: asyncio.Future[Generation]) -> None:
        del watch.waiters[future]
        if not watch.waiters and self._watches.get(watch.generation_id) is watch:
            del self._watches[watch.generation_id]
            self._agenda.news.set()

    async def _run(self) -> None:
        try:
            while self._watches:
                await self._sleep_until_due()
                if self._cooldown_seconds() <= 0 and (due := self._agenda.pop_due()):
                    await self._poll_targets(due)
        except Exception as error:
            logger.exception("%s: the watch has broken off", self._provider.name)
            for watch in self._watches.values():
                watch.fail(error)

    async def _sleep_until_due(self) -> None:
        """Until something is due and may be asked for, or until there is news of what is due."""
        self._agenda.news.clear()
        due = self._agenda.next_due()
        delay = None if due is None else max(due - _now(), self._cooldown_seconds())
        if not self._watches or (delay is not None and delay <= 0):
            return
        try:
            async with asyncio.timeout(delay):
                await self._agenda.news.wait()
        except TimeoutError:
            return

    @property
    def _is_in_trouble(self) -> bool:
        return self._inquiry.troubles > 0 or self._pause() > 0

    def _cooldown_seconds(self) -> float:
        """For how long the provider is to be left alone."""
        until = self._inquiry.held_until
        if (pause := self._pause()) > 0:
            until = max(until, self._asked_at + min(pause, self._schedule.longest_seconds))
        return until - _now()

    async def _poll_targets(self, due: Sequence[PollTarget]) -> None:
        single = [watch for watch in due if watch.needs_own_request]
        several = [watch for watch in due if not watch.needs_own_request]
        if several:
            together = [*several, *self._due_soon()]
            pages = self._inquiry.listing.pages_worth_reading(together, self._watches.values(), _now())
            if pages:
                for watch in together:
                    watch.request_in_flight = True
                await self._request(partial(self._inquiry.fetch_list, together, pages=pages))
            else:
                single += several
        for number, watch in enumerate(single):
            if number and self._is_in_trouble:
                # To a provider in trouble one request at a time, each after the hold of the one before.
                self._agenda.push(watch, 0.0, alone=watch.needs_own_request)
            else:
                await self._request(partial(self._inquiry.fetch, watch))

    def _due_soon(self) -> list[PollTarget]:
        """Those that may as well be asked for; not one that only a request of its own will do for."""
        now = _now()
        return [
            watch
            for watch in self._watches.values()
            if not watch.request_in_flight and not watch.needs_own_request and watch.ready_at <= now
        ]

    async def _request(self, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._room.acquire()
        self._asked_at = _now()
        task = asyncio.create_task(ask())
        self._requests.add(task)
        task.add_done_callback(self._done)
        if self._is_in_trouble:
            await task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        self._room.release()

    async def _poll_after_deadline(self, generation_id: str, deadline_at: datetime | None) -> Generation:
        """A row that is taken up long after its deadline may have been completed long ago."""
        passed = DeadlineExceeded(
            f"{self._provider.name} generation {generation_id} had not ended by {deadline_at:%Y-%m-%d %H:%M:%S}Z;"
            " it is left running, and collect stores it when it ends"
        )
        try:
            generation = await self._provider.retrieve(generation_id)
        except ProviderError as error:
            raise passed from error
        if not generation.status.ended:
            raise passed
        return generation


def _no_pause() -> float:
    return 0.0


def _seconds_until(moment: datetime | None) -> float | None:
    return None if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _now() -> float:
    return asyncio.get_running_loop().time()
