"""One generation that is being waited for, and everybody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prefect_video.generations import Generation
from prefect_video.waiting.schedule import Expectation

_STUCK: Final = 0.02
"""The part of all generations that take far longer than anybody would expect."""

OnChange = Callable[[Generation], None]


@dataclass(eq=False, slots=True)
class Watch:
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
    expected: Expectation
    waiters: dict[asyncio.Future[Generation], OnChange | None] = field(default_factory=dict)
    relaxed: bool = False
    due: float = 0.0
    ready: float = 0.0
    looked: float | None = None
    looking: bool = False
    alone: bool = False
    told: Generation | None = None
    denied: int = 0
    failed: int = 0
    over: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it was never looked at."""
        return self.told is None and not self.denied and not self.failed

    def chance_unfinished(self, now: float) -> float:
        """The chance that a look now finds it unfinished still."""
        before = self.expected.ended_by(self.looked - self.began) if self.looked is not None else 0.0
        return (1.0 - self.expected.ended_by(now - self.began) + _STUCK) / (1.0 - before + _STUCK)

    def hear(self, generation: Generation, now: float) -> None:
        """Takes note of an answer and tells the waiters of a change, and of the end."""
        changed = self.told is None or self.told.status is not generation.status
        self.told, self.looked = generation, now
        self.denied = self.failed = 0
        self.over = self.over or generation.status.ended
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
        self.over = True
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
