"""Poll queue: the generations that are waited for, and when each of them is polled next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prefect_video.generations import Generation, Status
from prefect_video.polling.completion import CompletionEstimate, CompletionForecast
from prefect_video.polling.schedule import PollSchedule

_STUCK: Final = 0.02
"""The share of all generations that take far longer than estimated."""
_JOINED_LATE: Final = 0.1
"""Share of the time before which the wait must have begun to show how long a generation took."""

OnChange = Callable[[Generation], None]


class Forecast(Protocol):
    """Estimate of when one generation is done, by what is known now."""

    @property
    def version(self) -> int:
        """Number that grows whenever the forecast changes."""

    def current(self) -> CompletionForecast:
        """Return the forecast as of now."""

    def record_end(self, seconds: float) -> None:
        """Record how long the generation took."""


class FixedForecast:
    """A forecast that learns nothing.

    Args:
        estimate: When the generation should be done.
    """

    version = 0

    def __init__(self, estimate: CompletionEstimate) -> None:
        self._forecast = CompletionForecast(((1.0 - _STUCK, estimate),), soonest=max(estimate.late, 0.001))

    def current(self) -> CompletionForecast:
        """Return the forecast."""
        return self._forecast

    def record_end(self, seconds: float) -> None:
        """Record nothing."""


@dataclass(eq=False, slots=True)
class PollTarget:
    """A generation that is polled, its waiters, and when to poll it next; times are those of the event loop.

    Attributes:
        generation_id: The provider's id.
        began: When it was submitted.
        forecast: When it should be done.
        joined_after: Seconds from the submit to the begin of the wait: more than a few where it was taken up again.
        waiters: The waiters' futures, and what to call at each change of status.
        webhook_expected: A webhook announces its end, so that polling is a fallback only.
        due: When the next poll is due.
        ready_at: From when on it may be polled together with others.
        not_before: Before this it may not be polled.
        version: The version of the forecast by which the poll was scheduled.
        last_polled_at: When it was last seen unfinished.
        ended_at: When it was first seen ended, where its result was still to be requested.
        request_in_flight: A request about it is in progress.
        needs_own_request: A list is not enough; only a request of its own will do.
        last: The last answer.
        not_found_count: Answers in a row that the provider does not know it.
        error_count: Requests in a row that brought no answer.
        done: The waiters have their result: a later waiter needs another target.
    """

    generation_id: str
    began: float
    forecast: Forecast
    joined_after: float = 0.0
    waiters: dict[asyncio.Future[Generation], OnChange | None] = field(default_factory=dict)
    webhook_expected: bool = False
    due: float = 0.0
    ready_at: float = 0.0
    not_before: float = 0.0
    version: int = 0
    last_polled_at: float | None = None
    ended_at: float | None = None
    request_in_flight: bool = False
    needs_own_request: bool = False
    last: Generation | None = None
    not_found_count: int = 0
    error_count: int = 0
    done: bool = False

    @property
    def polled_after(self) -> float:
        """Seconds from the submit to the last poll; 0 where it was never polled."""
        return self.last_polled_at - self.began if self.last_polled_at is not None else 0.0

    @property
    def is_queued(self) -> bool:
        """True while its next poll is awaited."""
        return bool(self.waiters) and not self.request_in_flight and not self.done

    def unnoticed_seconds(self, now: float) -> float:
        """Return the expected seconds for which its end is unnoticed by now."""
        return self.forecast.current().unnoticed_seconds(self.polled_after, now - self.began)

    def chance_unfinished(self, now: float) -> float:
        """Return the chance, 0 to 1, that a poll now finds it still unfinished."""
        return 1.0 - self.forecast.current().chance_between(self.polled_after, now - self.began)

    def update(self, generation: Generation, now: float) -> None:
        """Record an answer, and notify the waiters of a change of status and of the end."""
        changed = self.last is None or self.last.status is not generation.status
        if generation.status is Status.COMPLETED and not self.done:
            generation = self._with_seconds_taken(generation, now)
        self.last, self.last_polled_at = generation, now
        # Counted in a row: any answer begins anew.
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

    def _with_seconds_taken(self, generation: Generation, now: float) -> Generation:
        """Add how long it took: by the provider's times, within what was seen; the forecast learns it."""
        least, most = self.polled_after, (self.ended_at or now) - self.began
        seconds: float | None = None
        if generation.seconds_taken is not None:
            # The provider's clock may be wrong: what was seen of it bounds the time.
            seconds = min(max(generation.seconds_taken, least), most)
        # Joined long after the submit and never seen unfinished, it does not show when it ended.
        elif least > 0 or self.joined_after <= _JOINED_LATE * most:
            seconds = (least + most) / 2
        if seconds is not None and seconds > 0:
            self.forecast.record_end(seconds)
        return generation.model_copy(update={"seconds_taken": seconds})

    def _settle(self, future: asyncio.Future[Generation], end: Generation | Exception) -> None:
        if future.done():
            return
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)


_SLACK: Final = 0.4
"""How early a target may be polled together with others, as a share of its delay."""
_RELEARN_SECONDS: Final = 0.005
"""Least time between two schedulings of what was learned, for each target."""


class PollQueue:
    """The order in which targets are polled.

    Args:
        schedule: The delays between polls.
        targets: All targets, by generation id.
        sharing: Returns the number of generations that one request is about.

    Attributes:
        changed: Set whenever the time of the next poll may have changed.
    """

    def __init__(
        self, schedule: PollSchedule, targets: Mapping[str, PollTarget], *, sharing: Callable[[], float]
    ) -> None:
        self.changed = asyncio.Event()
        self._schedule = schedule
        self._targets = targets
        self._sharing = sharing
        self._relearn_at = 0.0

    def schedule(self, target: PollTarget, *, at_least: float = 0.0, retry_after: float | None = None) -> None:
        """Schedule a target's next poll by its forecast.

        Args:
            target: The target.
            at_least: Fewest seconds until the poll.
            retry_after: Seconds that the provider requested.
        """
        target.not_before = _now() + max(at_least, retry_after or 0.0)
        self._place(target)

    def push(self, target: PollTarget, delay: float, *, alone: bool = False) -> None:
        """Schedule a target's next poll after a delay.

        Args:
            target: The target.
            delay: Seconds until its next poll.
            alone: Only a request of its own will do.
        """
        target.not_before = target.due = target.ready_at = _now() + delay
        target.request_in_flight, target.needs_own_request = False, alone
        self.changed.set()

    def put_back(self, targets: Iterable[PollTarget]) -> None:
        """Put back targets that were due and are not polled now; they stay due since the same moment."""
        for target in targets:
            target.request_in_flight = False

    def relearn(self) -> None:
        """Schedule the targets again whose forecast has changed; for many, at intervals only."""
        now = _now()
        changed = [target for target in self._changed() if not target.needs_own_request]
        if not changed or now < self._relearn_at:
            return
        self._relearn_at = now + _RELEARN_SECONDS * len(self._targets)
        for target in changed:
            self._place(target)

    def next_due(self, *, alone: bool) -> float | None:
        """Return the loop's time of the next poll of one kind; None where there is none.

        Args:
            alone: Of those that need requests of their own, or of those that look for ends.
        """
        waiting = (
            target.due for target in self._targets.values() if target.is_queued and target.needs_own_request is alone
        )
        due = min(waiting, default=None)
        if not alone and due is not None and due > self._relearn_at and any(self._changed()):
            return max(self._relearn_at, _now())
        return due

    def pop_due(self, *, alone: bool) -> list[PollTarget]:
        """Take the targets that are due, the first one first: those with requests of their own, or the others."""
        now = _now()
        due = [
            target
            for target in self._targets.values()
            if target.is_queued and target.needs_own_request is alone and target.due <= now
        ]
        # Marked before anything is awaited: no other poll takes them as well.
        for target in due:
            target.request_in_flight = True
        return sorted(due, key=lambda target: target.due)

    def due_soon(self) -> list[PollTarget]:
        """Return the targets that a list may as well cover although they are not due yet."""
        now = _now()
        return [
            target
            for target in self._targets.values()
            if target.is_queued and not target.needs_own_request and target.ready_at <= now
        ]

    def _place(self, target: PollTarget) -> None:
        since = target.polled_after
        at = self._schedule.next_poll(
            since, target.forecast.current(), sharing=self._sharing(), relaxed=target.webhook_expected
        )
        # Of this forecast: `relearn` schedules only targets whose forecast has changed since.
        target.version = target.forecast.version
        target.due = max(target.began + at, target.not_before)
        slack = min(_SLACK * (at - since), self._schedule.share * at)
        target.ready_at = max(target.due - slack, target.not_before)
        target.request_in_flight = target.needs_own_request = False
        self.changed.set()

    def _changed(self) -> Iterable[PollTarget]:
        queued = (target for target in self._targets.values() if target.is_queued)
        return (target for target in queued if target.version != target.forecast.version)


def _now() -> float:
    return asyncio.get_running_loop().time()
