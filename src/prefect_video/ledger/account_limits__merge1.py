"""Who goes first: higher priorities, then whoever came first; but nobody waits for ever."""

from __future__ import annotations

from typing import Final

AGEING_SECONDS: Final = 600.0
"""Whoever has waited this much longer than another makes up for one step of priority."""


def rank(priority: int, since: float) -> float:
    """Where somebody stands in a queue: the lower, the sooner.

    Args:
        priority: Steps above normal, or below.
        since: When the wait began, in seconds by the queue's clock.
    """
    return since - priority * AGEING_SECONDS
