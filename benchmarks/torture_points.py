"""Where workers are killed, and what else goes wrong meanwhile."""

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
    """A place in a row's life at which to kill.

    Attributes:
        moment: The observer's moment that marks it; None for any time at all, by a timer from outside.
        delay_seconds: Between the moment and the kill, at least and at most; None for at the moment itself.
        faults: What the provider does so that the kill comes in the middle of something.
        skip: How many such moments may pass first, at most.
    """

    moment: SessionEvent | None
    delay_seconds: tuple[float, float] | None = None
    faults: Sequence[Fault] = ()
    skip: int = 6

    def kill(self, random: Random) -> Kill | None:
        """A kill at this point, at a random one of the rows."""
        if self.moment is None:
            return None
        delay = random.uniform(*self.delay_seconds) if self.delay_seconds else None
        return Kill(moment=self.moment, skip=random.randint(0, self.skip), delay_seconds=delay)


_SLOW_ANSWER: Final = {"operation": "submit", "kind": "delay", "seconds": 0.4, "times": None}
_SLOW_BODY: Final = {"operation": "content", "kind": "slow", "bytes_per_second": 100_000, "times": None}

POINTS: Final[Mapping[str, Point]] = MappingProxyType(
    {
        "claimed": Point("claimed", skip=11),
        "before send": Point("before_send"),
        "sent, not answered": Point("before_send", (0.02, 0.35), (_SLOW_ANSWER,)),
        "answered, not recorded": Point("answered"),
        "recorded": Point("submitted"),
        "mid-poll": Point("polled"),
        "mid-download": Point("downloading", (0.05, 0.5), (_SLOW_BODY,)),
        "before publish": Point("before_publish"),
        "mid-publish": Point("before_publish", (0.0, 0.03)),
        "published, not recorded": Point("published"),
        "stored": Point("stored"),
        "any time": Point(None),
    }
)

NOISE: Final[Sequence[Fault]] = (
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
"""Faults of the provider that come along, each once."""


def noise(random: Random) -> list[dict[str, Any]]:
    """Up to three faults, each at a random request."""
    chosen = random.sample(NOISE, k=random.choice((0, 0, 1, 2, 3)))
    return [{**fault, "after": random.randint(0, 5)} for fault in chosen]
