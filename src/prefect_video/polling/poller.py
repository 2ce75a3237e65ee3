"""Poller: one loop for each account and process, which all waiting tasks share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from prefect_video.errors import DeadlineExceeded, NotFound, ProviderError
from prefect_video.generations import Generation
from prefect_video.polling.completion import CompletionEstimate
from prefect_video.polling.poll_queue import FixedForecast, Forecast, OnChange, PollQueue, PollTarget
from prefect_video.polling.request_budget import RequestBudget
from prefect_video.polling.schedule import PollSchedule
from prefect_video.polling.status_requests import (
    ListStrategy,
    StatusRequests,
    is_transient,
    lost_generation,
    not_found_delay,
)
from prefect_video.providers import Provider

__all__ = ["OnChange", "Poller", "is_transient"]

logger = logging.getLogger(__name__)

_REQUESTS_AT_ONCE: Final = 8
_SORT_SECONDS: Final = 0.005
"""Least time between two comparisons of what is due, for each target."""


class Poller:
    """A poller of one account's generations; all waiters for one generation share one target.

    One loop polls what is due: one generation by itself, several by a list where that takes fewer requests. Each end
    that it notices teaches the forecasts of the others. A polling error neither loses nor cancels a generation: the
    next poll comes later.

    Args:
        provider: The provider that makes the generations.
        schedule: The delays between polls.
        lost_after: Number of answers in a row that must say that a known id does not exist.
        pause: Returns for how many seconds polls should pause, because the provider is failing; meanwhile there is one
            poll every `longest_seconds` of the schedule.
        budget: The requests that may look for ends; the one that fetches the result of an ended generation is free.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        schedule: PollSchedule | None = None,
        lost_after: int = 5,
        pause: Callable[[], float] | None = None,
        budget: RequestBudget | None = None,
    ) -> None:
        self._provider = provider
        self._schedule = schedule or PollSchedule()
        self._lost_after = lost_after
        self._pause = pause or _no_pause
        self._targets: dict[str, PollTarget] = {}
        self._budget = budget or RequestBudget()
        listing = ListStrategy(provider)
        self._queue = PollQueue(self._schedule, self._targets, sharing=lambda: listing.sharing(len(self._targets)))
        self._requests = StatusRequests(
            provider,
            self._queue,
            self._targets,
            schedule=self._schedule,
            lost_after=lost_after,
            listing=listing,
            budget=self._budget,
        )
        self._request_slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._requested_at = 0.0
        self._sort_at = 0.0

    async def wait_for_end(
        self,
        generation_id: str,
        *,
        submitted_at: datetime,
        expected: Forecast | CompletionEstimate,
        deadline_at: datetime | None = None,
        on_change: OnChange | None = None,
        relaxed: bool = False,
    ) -> Generation:
        """Wait until a generation has ended; `lost` is the end of one that the provider no longer knows.

        Args:
            generation_id: The provider's id.
            submitted_at: When it was accepted.
            expected: When it should be done.
            deadline_at: When to give up waiting.
            on_change: Called with each answer whose status differs from the one before.
            relaxed: A webhook announces its end, so that polling is a fallback only.

        Raises:
            DeadlineExceeded: It has not ended by then, nor at a last poll after it; it is left running.
            ProviderError: The key was refused.
        """
        target = self._targets.get(generation_id)
        # One that is done has settled its waiters: a new one would wait for nothing.
        if target is None or target.done:
            target = self._new_target(generation_id, submitted_at, expected)
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._join(target, future, on_change, relaxed)
        try:
            async with asyncio.timeout(_seconds_until(deadline_at)):
                return await future
        except TimeoutError:
            return await self._poll_after_deadline(generation_id, deadline_at)
        finally:
            self._leave(target, future)

    async def poll_once(self, generation_id: str) -> Generation:
        """Request a generation; it is `lost` once the provider has not known its id several times in a row.

        Raises:
            ProviderError: There was no usable answer.
        """
        for not_found_count in range(1, self._lost_after + 1):
            try:
                return await self._provider.retrieve(generation_id)
            except NotFound:
                if not_found_count < self._lost_after:
                    await asyncio.sleep(not_found_delay(self._schedule, not_found_count))
        return lost_generation(self._provider, generation_id)

    async def aclose(self) -> None:
        """Stop polling and cancel all waiters; the generations go on at the provider."""
        tasks = [*self._tasks, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for target in self._targets.values():
            target.cancel()

    def _new_target(
        self, generation_id: str, submitted_at: datetime, expected: Forecast | CompletionEstimate
    ) -> PollTarget:
        began = _now() - (datetime.now(UTC) - submitted_at).total_seconds()
        forecast = FixedForecast(expected) if isinstance(expected, CompletionEstimate) else expected
        target = PollTarget(generation_id, began, forecast, joined_after=_now() - began)
        self._targets[generation_id] = target
        return target

    def _join(
        self, target: PollTarget, future: asyncio.Future[Generation], on_change: OnChange | None, relaxed: bool
    ) -> None:
        is_first = not target.waiters
        target.waiters[future] = on_change
        is_hurried = target.webhook_expected and not relaxed
        target.webhook_expected = relaxed if is_first else target.webhook_expected and relaxed
        if is_first or (is_hurried and not target.request_in_flight):
            self._queue.schedule(target)
        # The loop ends with its last target, so that an idle session has no task.
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=f"poll {self._provider.account.id}")

    def _leave(self, target: PollTarget, future: asyncio.Future[Generation]) -> None:
        del target.waiters[future]
        # A newer target of the same generation may have taken its place.
        if not target.waiters and self._targets.get(target.generation_id) is target:
            del self._targets[target.generation_id]
            self._queue.changed.set()

    async def _run(self) -> None:
        try:
            while self._targets:
                self._queue.relearn()
                await self._sleep_until_due()
                if self._cooldown_seconds() <= 0:
                    await self._fetch_each(self._queue.pop_due(alone=True))
                if self._may_poll():
                    await self._poll_for_ends(self._queue.pop_due(alone=False))
        except Exception as error:
            # Passed on to all waiters, which would otherwise wait for a loop that has ended.
            logger.exception("%s: polling has failed", self._provider.name)
            for target in self._targets.values():
                target.fail(error)

    async def _sleep_until_due(self) -> None:
        """Sleep until a target is due and the provider may be asked, or until the queue has changed."""
        # Cleared before the queue is read: a change in between ends the sleep at once.
        self._queue.changed.clear()
        moments = [at for at in (self._queue.next_due(alone=True), self._next_poll()) if at is not None]
        delay = max(min(moments) - _now(), self._cooldown_seconds()) if moments else None
        if not self._targets or (delay is not None and delay <= 0):
            return
        try:
            async with asyncio.timeout(delay):
                await self._queue.changed.wait()
        except TimeoutError:
            return

    def _may_poll(self) -> bool:
        return self._cooldown_seconds() <= 0 and not self._requests.is_listing and self._budget.affordable() >= 1

    def _next_poll(self) -> float | None:
        due = self._queue.next_due(alone=False)
        # While a list is read, what is due is likely to be in it; its end wakes this loop up.
        if due is None or self._requests.is_listing:
            return None
        return max(due, _now() + self._budget.seconds_until_affordable())

    @property
    def _is_failing(self) -> bool:
        return self._requests.failures > 0 or self._pause() > 0

    def _cooldown_seconds(self) -> float:
        """Return the seconds for which nothing should be requested; negative where it may be."""
        until = self._requests.not_before
        if (pause := self._pause()) > 0:
            until = max(until, self._requested_at + min(pause, self._schedule.longest_seconds))
        return until - _now()

    async def _poll_for_ends(self, due: Sequence[PollTarget]) -> None:
        """Poll the targets that are due by a list where that takes fewer requests, else each as the budget allows."""
        together = [*due, *self._queue.due_soon()] if due else []
        pages = self._requests.listing.pages_worth_reading(together, self._targets.values(), _now())
        if pages:
            for target in together:
                target.request_in_flight = True
            self._budget.spend(pages)
            self._requests.is_listing = True
            await self._request(partial(self._requests.fetch_list, together, pages=pages))
            return
        if len(due) > (affordable := self._budget.affordable()):
            due = self._sort_by_urgency(due)
            self._queue.put_back(due[int(affordable) :])
            due = due[: int(affordable)]
        self._budget.spend(len(due))
        await self._fetch_each(due)

    def _sort_by_urgency(self, due: Sequence[PollTarget]) -> Sequence[PollTarget]:
        """Put those first whose end is likely to be unnoticed for longest; the rest waits for the budget.

        For many, at intervals only, or comparing them would cost more than their polls: meanwhile those come first that
        have been due for longest.
        """
        now = _now()
        if now < self._sort_at:
            return due
        self._sort_at = now + _SORT_SECONDS * len(due)
        return sorted(due, key=lambda target: target.unnoticed_seconds(now), reverse=True)

    async def _fetch_each(self, due: Sequence[PollTarget]) -> None:
        for number, target in enumerate(due):
            if number and self._is_failing:
                # A failing provider gets one request at a time, each after the pause that the one before has caused.
                self._queue.put_back(due[number:])
                return
            await self._request(partial(self._requests.fetch, target))

    async def _request(self, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._request_slots.acquire()
        self._requested_at = _now()
        task = asyncio.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        if self._is_failing:
            await task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._request_slots.release()

    async def _poll_after_deadline(self, generation_id: str, deadline_at: datetime | None) -> Generation:
        """Poll once more: a job that is resumed long after its deadline may have been completed long ago."""
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
