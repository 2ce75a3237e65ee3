"""Poll schedule: when the next poll of a generation is worth its request.

A poll is due as soon as the time for which an end is expected to have gone unnoticed exceeds the price of a request.
Early that is seldom, around the expected moment often; and where a list answers for many, its price is shared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prefect_video.polling.completion import CompletionForecast

_MOST_SHARING: Final = 8.0
"""Generations that share the price of a list at most: beyond, ends are noticed soon anyway."""
_PLAUSIBLE: Final = 0.1
"""Expected ends within the permitted lateness from which on something may have ended."""
_BLIND_SHARE: Final = 0.25
"""Longest interval where a list answers for many, as a share of the elapsed time, however unlikely an end is."""
_PRICE: Final = 0.48
"""Price of a request in seconds that an end goes unnoticed, as a multiple of the shortest interval.

With it, one generation of which nothing is known is polled after 2, 4, 7, 11, 16 seconds and so on.
"""


@dataclass(frozen=True)
class PollSchedule:
    """Adaptive polling: the request that is worth it, neither sooner nor later.

    Attributes:
        shortest_seconds: Shortest interval between two polls of one generation; the price of a request follows it.
        longest_seconds: Longest interval that is kept for its own sake, and between two polls of a failing provider.
        max_lateness_seconds: Longest interval where something may have ended.
        share: The same as a share of the elapsed time, where that is more.
        closest_share: Shortest interval, as a share of the elapsed time.
        grace_seconds: Least time to wait for a webhook past the moment after which a generation is late.
        vary: Random variation of intervals, as a share of them, so that processes do not poll in step.
    """

    shortest_seconds: float = 0.25
    longest_seconds: float = 60.0
    max_lateness_seconds: float = 1.0
    share: float = 0.05
    closest_share: float = 0.02
    grace_seconds: float = 3.0
    vary: float = 0.05

    def next_poll(
        self,
        since: float,
        forecast: CompletionForecast,
        *,
        sharing: float = 1.0,
        relaxed: bool = False,
        rng: Callable[[], float] = random.random,
    ) -> float:
        """Return the time of the next poll, in seconds since the submit.

        Args:
            since: Time of the last poll, at which it had not ended; 0 where there was none.
            forecast: When the generation should be done.
            sharing: Number of generations that one request is about.
            relaxed: A webhook announces the end, so that polling is a fallback only.
            rng: Returns random numbers from 0 to 1.
        """
        if relaxed:
            first = max(forecast.late * 1.5, forecast.late + self.grace_seconds)
            if since < first:
                return first * (1.0 + self.vary * rng() / 5)
            delay = min(2 * self.share * since + (since - forecast.late) / 4, self.longest_seconds)
        else:
            delay = self._interval(since, forecast, sharing)
        delay -= self.vary * rng() * min(delay, self._widest(since))
        return since + max(delay, self._shortest(since))

    def _interval(self, since: float, forecast: CompletionForecast, sharing: float) -> float:
        price = _PRICE * self.shortest_seconds / min(sharing, _MOST_SHARING)
        widest = self._widest(since)
        delay = forecast.seconds_until_unnoticed(since, price, at_least=self._shortest(since), at_most=widest)
        if delay < widest or sharing * forecast.chance_between(since, since + widest) >= _PLAUSIBLE:
            return delay
        is_cheap = sharing >= _MOST_SHARING and since >= forecast.soonest
        longest = max(_BLIND_SHARE * since, widest) if is_cheap else math.inf
        return forecast.seconds_until_unnoticed(since, price, at_least=widest, at_most=longest)

    def _widest(self, since: float) -> float:
        return max(self.max_lateness_seconds, self.share * since)

    def _shortest(self, since: float) -> float:
        return min(max(self.shortest_seconds, self.closest_share * since), self.longest_seconds)
