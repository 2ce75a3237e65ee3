"""What is to be looked at when: one heap for all that is waited for."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Final

from prefect_video.waiting.schedule import PollSchedule
from prefect_video.waiting.watch import Watch

_SLACK: Final = 0.4
"""A look is welcome this much before it is due, as a part of the delay, when others are looked at anyway."""


class Agenda:
    """Watches in the order of their next look.

    Args:
        schedule: How densely to look.

    Attributes:
        news: Set whenever the next look may have changed.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self.news = asyncio.Event()
        self._schedule = schedule
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = itertools.count()

    def plan(self, watch: Watch, *, at_least: float = 0.0, asked: float | None = None) -> None:
        """Sets when to look next; one that was never looked at and could be done is looked at now.

        Args:
            watch: At what.
            at_least: Seconds to let pass.
            asked: Seconds that the provider asked for.
        """
        elapsed = _now() - watch.began
        if watch.is_new and self._schedule.worth_a_look(elapsed, watch.expected, relaxed=watch.relaxed):
            delay = 0.0
        else:
            delay = self._schedule.next_delay(elapsed, watch.expected, asked=asked, relaxed=watch.relaxed)
        self.put(watch, max(delay, at_least), unwelcome=max(at_least, asked or 0.0))

    def put(self, watch: Watch, delay: float, *, unwelcome: float = 0.0, alone: bool = False) -> None:
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
        watch.ready = max(watch.due - slack, now + unwelcome)
        watch.looking, watch.alone = False, alone
        heapq.heappush(self._heap, (watch.due, next(self._order), watch))
        self.news.set()

    def next_due(self) -> float | None:
        """The loop's time of the next look; None when there is none."""
        while self._heap and _stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self) -> list[Watch]:
        """What is due; it is off the agenda until it is put there again."""
        due: list[Watch] = []
        now = _now()
        while (at := self.next_due()) is not None and at <= now:
            watch = heapq.heappop(self._heap)[2]
            watch.looking = True
            due.append(watch)
        return due


def _stale(item: tuple[float, int, Watch]) -> bool:
    """Whether the watch is over, or was put elsewhere since."""
    due, _, watch = item
    return watch.looking or not watch.waiters or watch.due != due


def _now() -> float:
    return asyncio.get_running_loop().time()
