"""One generation that is being waited for, and everybody who waits for it."""

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
"""The part of all generations that take far longer than anybody would expect."""

OnChange = Callable[[Generation], None]


@dataclass(eq=False, slots=True)
class PollTarget:
    """What is known of a generation and when it is to be looked at again; times are those of the event loop.

    Attributes:
        generation_id: The provider's id.
        began: When it was submitted.
        expected: When it should be done.
        waiters: Who waits, and what to call at each change.
        relaxed: Whether its end is announced in another way, so that looking is a fallback only.
        due: When the next look is to be taken.
        ready: From when on a look is welcome, should others be looked at.
        looked: When it was last seen unfinished.
        looking: Whether a request is under way.
        alone: Whether only a request of its own will do.
        told: The last answer.
        denied: Answers in a row that the provider does not know it.
        failed: Looks in a row that brought no answer.
        over: Whether the waiters have their answer: whoever comes now needs another watch.
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
        """Whether it was never looked at."""
        return self.last is None and not self.not_found_count and not self.error_count

    def chance_unfinished(self, now: float) -> float:
        """The chance that a look now finds it unfinished still."""
        before = self.expected.ended_by(self.last_polled_at - self.began) if self.last_polled_at is not None else 0.0
        return (1.0 - self.expected.ended_by(now - self.began) + _STUCK) / (1.0 - before + _STUCK)

    def update(self, generation: Generation, now: float) -> None:
        """Takes note of an answer and tells the waiters of a change, and of the end."""
        changed = self.last is None or self.last.status is not generation.status
        self.last, self.last_polled_at = generation, now
        self.not_found_count = self.error_count = 0
        self.done = self.done or generation.status.ended
        for future, on_change in list(self.waiters.items()):
            try:
                if changed and on_change and not future.done():
                    on_change(generation)
            except Exception as error:  # noqa: BLE001  theirs; the other waiters have no part in it
                self._settle(future, error)
            if generation.status.ended:
                self._settle(future, generation)

    def fail(self, error: Exception) -> None:
        """Ends every wait with an error."""
        self.done = True
        for future in self.waiters:
            self._settle(future, error)

    def cancel(self) -> None:
        """Cancels every wait."""
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
"""A look is welcome this much before it is due, as a part of the delay, when others are looked at anyway."""


class PollQueue:
    """Watches in the order of their next look.

    Args:
        schedule: How densely to look.

    Attributes:
        news: Set whenever the next look may have changed.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self.news = asyncio.Event()
        self._schedule = schedule
        self._heap: list[tuple[float, int, PollTarget]] = []
        self._order = itertools.count()

    def schedule(self, watch: PollTarget, *, at_least: float = 0.0, asked: float | None = None) -> None:
        """Sets when to look next; one that was never looked at and could be done is looked at now.

        Args:
            watch: At what.
            at_least: Seconds to let pass.
            asked: Seconds that the provider asked for.
        """
        elapsed = _now() - watch.began
        if watch.is_new and self._schedule.is_worth_polling(elapsed, watch.expected, relaxed=watch.webhook_expected):
            delay = 0.0
        else:
            delay = self._schedule.next_delay(elapsed, watch.expected, asked=asked, relaxed=watch.webhook_expected)
        self.push(watch, max(delay, at_least), unwelcome=max(at_least, asked or 0.0))

    def push(self, watch: PollTarget, delay: float, *, unwelcome: float = 0.0, alone: bool = False) -> None:
        """Has a watch looked at after so many seconds.

        Args:
            watch: At what.
            delay: In how many seconds.
            unwelcome: Seconds in which not to look, even if others are looked at.
            alone: Whether only a request of its own will do.
        """
        now = _now()
        watch.due = now + delay
        slack = min(_SLACK * delay, self._schedule.share / 2 * (watch.due - watch.began))
        watch.ready_at = max(watch.due - slack, now + unwelcome)
        watch.request_in_flight, watch.needs_own_request = False, alone
        heapq.heappush(self._heap, (watch.due, next(self._order), watch))
        self.news.set()

    def next_due(self) -> float | None:
        """The loop's time of the next look; None when there is none."""
        while self._heap and _stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self) -> list[PollTarget]:
        """What is due; it is off the agenda until it is put there again."""
        due: list[PollTarget] = []
        now = _now()
        while (at := self.next_due()) is not None and at <= now:
            watch = heapq.heappop(self._heap)[2]
            watch.request_in_flight = True
            due.append(watch)
        return due


def _stale(item: tuple[float, int, PollTarget]) -> bool:
    """Whether the watch is over, or was put elsewhere since."""
    due, _, watch = item
    return watch.request_in_flight or not watch.waiters or watch.due != due


def _now() -> float:
    return asyncio.get_running_loop().time()
