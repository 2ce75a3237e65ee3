"""Points of a job's life at which workers are killed, and the provider's faults meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any, Final

from benchmarks.torture_worker import Kill
from prefect_video.session import SessionEvent

Fault = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """Point of a job's life at which a worker is killed.

    Attributes:
        event: The event that marks it; None for any time, by a timer outside of the worker.
        delay_seconds: Least and greatest time between the event and the kill; None to kill within the event.
        faults: Faults that make the provider slow, so that the kill comes in the middle of a request.
        skip: Most events of this kind to let pass first.
    """

    event: SessionEvent | None
    delay_seconds: tuple[float, float] | None = None
    faults: Sequence[Fault] = ()
    skip: int = 6

    def choose_kill(self, random: Random) -> Kill | None:
        """Return a kill at this point of a random job; None for a kill from outside."""
        if self.event is None:
            return None
        delay = random.uniform(*self.delay_seconds) if self.delay_seconds else None
        return Kill(event=self.event, skip=random.randint(0, self.skip), delay_seconds=delay)


_SLOW_ANSWER: Final = {"operation": "submit", "kind": "delay", "seconds": 0.4, "times": None}
_SLOW_BODY: Final = {"operation": "content", "kind": "slow", "bytes_per_second": 100_000, "times": None}

POINTS: Final[Mapping[str, Point]] = MappingProxyType(
    {
        "claimed": Point(SessionEvent.CLAIMED, skip=11),
        "before send": Point(SessionEvent.BEFORE_SEND),
        "sent, not answered": Point(SessionEvent.BEFORE_SEND, (0.02, 0.35), (_SLOW_ANSWER,)),
        "answered, not recorded": Point(SessionEvent.ANSWERED),
        "recorded": Point(SessionEvent.SUBMITTED),
        "mid-poll": Point(SessionEvent.POLLED),
        "mid-download": Point(SessionEvent.DOWNLOADING, (0.05, 0.5), (_SLOW_BODY,)),
        "before publish": Point(SessionEvent.BEFORE_PUBLISH),
        "mid-publish": Point(SessionEvent.BEFORE_PUBLISH, (0.0, 0.03)),
        "published, not recorded": Point(SessionEvent.PUBLISHED),
        "stored": Point(SessionEvent.STORED),
        "any time": Point(None),
    }
)

FAULTS: Final[Sequence[Fault]] = (
    {"operation": "submit", "kind": "error_after"},
    {"operation": "submit", "kind": "error_before"},
    {"operation": "submit", "kind": "reset_after"},
    {"operation": "submit", "kind": "reset_before"},
    {"operation": "submit", "kind": "rate_limited", "retry_after": 0.3},
    {"operation": "submit", "kind": "hang", "seconds": 3},
    {"operation": "submit", "kind": "generation_error"},
    {"operation": "submit", "kind": "truncated"},
    {"operation": "submit", "kind": "wrong_content"},
    {"operation": "retrieve", "kind": "error_before"},
    {"operation": "retrieve", "kind": "not_found", "times": 2},
    {"operation": "retrieve", "kind": "unknown_status"},
    {"operation": "retrieve", "kind": "wrong_content"},
    {"operation": "retrieve", "kind": "expired_link"},
    {"operation": "list", "kind": "error_before"},
    {"operation": "list", "kind": "reset_before"},
    {"operation": "content", "kind": "expired_link"},
    {"operation": "content", "kind": "truncated"},
    {"operation": "content", "kind": "short_file"},
    {"operation": "content", "kind": "wrong_content"},
    {"operation": "content", "kind": "reset_before"},
)
"""Faults that the provider may have besides, each once."""


def choose_faults(random: Random) -> list[dict[str, Any]]:
    """Return up to three faults, each at a random request."""
    chosen = random.sample(FAULTS, k=random.choice((0, 0, 1, 2, 3)))
    return [{**fault, "after": random.randint(0, 5)} for fault in chosen]
