"""Poll queue: the generations that are waited for, in the order of their next poll."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prefect_video.generations import Generation
from prefect_video.polling.schedule import CompletionEstimate, PollSchedule

_STUCK: Final = 0.02
"""The share of all generations that take far longer than any distribution of past times expects."""

OnChange = Callable[[Generation], None]


@dataclass(eq=False, slots=True)
class PollTarget:
    """A generation that is polled, its waiters, and when to poll it next; times are those of the event loop.

    Attributes:
        generation_id: The provider's id.
        began: When it was submitted.
        expected: When it should be done.
        waiters: The waiters' futures, and what to call at each change of status.
        webhook_expected: A webhook announces its end, so that polling is a fallback only.
        due: When the next poll is due.
        ready_at: From when on it may be polled together with others.
        last_polled_at: When it was last seen unfinished.
        request_in_flight: A request about it is in progress.
        needs_own_request: A list is not enough; only a request of its own will do.
        last: The last answer.
        not_found_count: Answers in a row that the provider does not know it.
        error_count: Requests in a row that brought no answer.
        done: The waiters have their result: a later waiter needs another target.
    """

    generation_id: str
    began: float
    expected: CompletionEstimate
    waiters: dict[asyncio.Future[Generation], OnChange | None] = field(default_factory=dict)
    webhook_expected: bool = False
    due: float = 0.0
    ready_at: float = 0.0
    last_polled_at: float | None = None
    request_in_flight: bool = False
    needs_own_request: bool = False
    last: Generation | None = None
    not_found_count: int = 0
    error_count: int = 0
    done: bool = False

    @property
    def is_new(self) -> bool:
        """True while it was never polled."""
        return self.last is None and not self.not_found_count and not self.error_count

    def chance_unfinished(self, now: float) -> float:
        """Return the chance, 0 to 1, that a poll now finds it still unfinished."""
        before = self.expected.ended_by(self.last_polled_at - self.began) if self.last_polled_at is not None else 0.0
        return (1.0 - self.expected.ended_by(now - self.began) + _STUCK) / (1.0 - before + _STUCK)

    def update(self, generation: Generation, now: float) -> None:
        """Record an answer, and notify the waiters of a change of status and of the end."""
        changed = self.last is None or self.last.status is not generation.status
        self.last, self.last_polled_at = generation, now
        self.not_found_count = self.error_count = 0
        self.done = self.done or generation.status.ended
        for future, on_change in list(self.waiters.items()):
            try:
                if changed and on_change and not future.done():
                    on_change(generation)
            except Exception as error:  # noqa: BLE001  of one waiter's callback: the other waiters go on
                self._settle(future, error)
            if generation.status.ended:
                self._settle(future, generation)

    def fail(self, error: Exception) -> None:
        """End every wait with an error."""
        self.done = True
        for future in self.waiters:
            self._settle(future, error)

    def cancel(self) -> None:
        """Cancel every wait."""
        for future in self.waiters:
            future.cancel()

    def _settle(self, future: asyncio.Future[Generation], end: Generation | Exception) -> None:
        if future.done():
            return
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)


_SLACK: Final = 0.4
"""How early a target may be polled together with others, as a share of its delay."""


class PollQueue:
    """A priority queue of poll targets, ordered by their next poll.

    Args:
        schedule: The delays between polls.

    Attributes:
        changed: Set whenever the time of the next poll may have changed.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self.changed = asyncio.Event()
        self._schedule = schedule
        self._heap: list[tuple[float, int, PollTarget]] = []
        self._order = itertools.count()

    def schedule(self, target: PollTarget, *, at_least: float = 0.0, retry_after: float | None = None) -> None:
        """Schedule a target's next poll; one that was never polled and could be done is due now.

        Args:
            target: The target.
            at_least: Fewest seconds until the poll.
            retry_after: Seconds that the provider requested.
        """
        elapsed = _now() - target.began
        if target.is_new and self._schedule.is_worth_polling(elapsed, target.expected, relaxed=target.webhook_expected):
            delay = 0.0
        else:
            delay = self._schedule.next_delay(
                elapsed, target.expected, retry_after=retry_after, relaxed=target.webhook_expected
            )
        self.push(target, max(delay, at_least), not_before=max(at_least, retry_after or 0.0))

    def push(self, target: PollTarget, delay: float, *, not_before: float = 0.0, alone: bool = False) -> None:
        """Put a target into the queue.

        Args:
            target: The target.
            delay: Seconds until its next poll.
            not_before: Fewest seconds until it may be polled together with others.
            alone: Only a request of its own will do.
        """
        now = _now()
        target.due = now + delay
        slack = min(_SLACK * delay, self._schedule.share / 2 * (target.due - target.began))
        target.ready_at = max(target.due - slack, now + not_before)
        target.request_in_flight, target.needs_own_request = False, alone
        heapq.heappush(self._heap, (target.due, next(self._order), target))
        self.changed.set()

    def next_due(self) -> float | None:
        """Return the loop's time of the next poll; None where nothing is queued."""
        while self._heap and _stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self) -> list[PollTarget]:
        """Remove the targets that are due from the queue, and return them."""
        due: list[PollTarget] = []
        now = _now()
        while (at := self.next_due()) is not None and at <= now:
            target = heapq.heappop(self._heap)[2]
            target.request_in_flight = True
            due.append(target)
        return due


def _stale(item: tuple[float, int, PollTarget]) -> bool:
    """Return whether a target is no longer waited for, or was queued again for another time."""
    due, _, target = item
    return target.request_in_flight or not target.waiters or target.due != due


def _now() -> float:
    return asyncio.get_running_loop().time()
