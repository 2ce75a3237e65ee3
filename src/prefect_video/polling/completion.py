"""Completion forecasts: how likely a generation has ended after so many seconds, and how late a poll would be.

A forecast is a mixture: what was learned, what the provider estimates, and a vague remainder that is spread evenly over
all orders of magnitude. The remainder never vanishes, so that no belief, however firm, keeps an end from being noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

_EDGE: Final = 2.0537
"""Standard deviations from the median to an implausible time: one in fifty."""
_LONGEST_SECONDS: Final = 6 * 3600.0
"""Upper end of the vague remainder."""
_BISECTIONS: Final = 18
_PRECISION: Final = 0.02
"""Precision of a delay, as a share of it."""
_GROWTH: Final = 3.0
"""Factor from one delay that is tried to the next, while they are too short."""


@dataclass(frozen=True)
class CompletionEstimate:
    """Distribution of the time that a generation takes, in seconds since it was submitted.

    The logarithm of the time is normally distributed, with a width of its own on either side of the median.

    Attributes:
        earliest: Before this, completion is implausible (one in fifty).
        likely: The moment around which it is expected (the median).
        latest: After this, it is late (one in fifty); None for as far from `likely` as `earliest` is, by ratio.
    """

    earliest: float
    likely: float
    latest: float | None = None

    @property
    def late(self) -> float:
        """Seconds after which it is late."""
        if self.latest is not None:
            return self.latest
        return self.likely**2 / self.earliest if self.earliest > 0 else 2 * self.likely

    def ended_by(self, elapsed: float) -> float:
        """Return the chance, 0 to 1, that it has ended after so many seconds."""
        spread = self._early_spread if elapsed < self.likely else self._late_spread
        if elapsed <= 0 or self.likely <= 0 or spread <= 0:
            return float(elapsed >= self.likely)
        return _normal_cdf(math.log(elapsed / self.likely) / spread)

    def area(self, elapsed: float) -> float:
        """Return the integral of `ended_by` from 0: the expected seconds between its end and that moment."""
        if elapsed <= 0:
            return 0.0
        if elapsed < self.likely:
            return self._side_area(elapsed, self._early_spread)
        if self._late_spread <= 0:
            return self._early_area + elapsed - self.likely
        return self._early_area + self._side_area(elapsed, self._late_spread) - self._late_area

    @cached_property
    def _early_area(self) -> float:
        return self._side_area(self.likely, self._early_spread)

    @cached_property
    def _late_area(self) -> float:
        return self._side_area(self.likely, self._late_spread)

    def _side_area(self, elapsed: float, spread: float) -> float:
        if spread <= 0:
            return 0.0
        deviations = math.log(elapsed / self.likely) / spread
        mean = self.likely * math.exp(spread**2 / 2)
        return elapsed * _normal_cdf(deviations) - mean * _normal_cdf(deviations - spread)

    @cached_property
    def _early_spread(self) -> float:
        return _spread(self.earliest, self.likely)

    @cached_property
    def _late_spread(self) -> float:
        return _spread(self.likely, self.late)


@dataclass(frozen=True)
class CompletionForecast:
    """Mixture of estimates, and of a vague remainder whose chance is the same for each doubling of the time.

    Attributes:
        estimates: The estimates with their weights, whose sum is at most 1; the remainder has the rest.
        soonest: Lower end of the remainder, in seconds.
    """

    estimates: Sequence[tuple[float, CompletionEstimate]] = ()
    soonest: float = 0.5
    _vague: float = field(init=False, repr=False, default=1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_vague", max(0.0, 1.0 - sum(weight for weight, _ in self.estimates)))

    def ended_by(self, elapsed: float) -> float:
        """Return the chance, 0 to 1, that it has ended after so many seconds."""
        known = sum(weight * estimate.ended_by(elapsed) for weight, estimate in self.estimates)
        return min(1.0, known + self._vague * self._vague_ended_by(elapsed))

    def chance_between(self, since: float, until: float) -> float:
        """Return the chance that one that had not ended at a moment has ended at a later one."""
        before = self.ended_by(since)
        return (self.ended_by(until) - before) / (1.0 - before) if before < 1.0 else 1.0

    def unnoticed_seconds(self, since: float, until: float) -> float:
        """Return the expected seconds between its end and a poll, for one that had not ended at the poll before."""
        return self._unnoticed_from(since)(until - since)

    def seconds_until_unnoticed(
        self, since: float, seconds: float, *, at_least: float = 0.0, at_most: float = math.inf
    ) -> float:
        """Return the seconds after a poll from which on an end is expected to go unnoticed for so long.

        Args:
            since: Time of the poll, at which it had not ended.
            seconds: For how long.
            at_least: Shortest result: what is below need not be found out.
            at_most: Longest result, likewise.
        """
        unnoticed = self._unnoticed_from(since)
        if at_most < _LONGEST_SECONDS and unnoticed(at_most) < seconds:
            return at_most
        low, high = 0.0, max(seconds, at_least)
        below, above = 0.0, unnoticed(high)
        while above < seconds and high < _LONGEST_SECONDS:
            low, below, high = high, above, _GROWTH * high
            above = unnoticed(high)
        if low == 0.0 or above < seconds:
            return high
        halves = False
        while high - low > _PRECISION * high:
            # It grows like a power of the delay, mostly; halving now and then ends the search where it does not.
            share = 0.5 if halves or below <= 0.0 else math.log(seconds / below) / math.log(above / below)
            halves = not halves
            middle: float = low * (high / low) ** share
            value = unnoticed(middle)
            if abs(value - seconds) <= _PRECISION * seconds:
                return middle
            low, below, high, above = (middle, value, high, above) if value < seconds else (low, below, middle, value)
        return high

    def _unnoticed_from(self, since: float) -> Callable[[float], float]:
        """Return the function from the seconds after a poll to the expected time for which an end is unnoticed."""
        before, area = self.ended_by(since), self._area(since)
        if before >= 1.0:
            return lambda delay: delay
        return lambda delay: max(0.0, self._area(since + delay) - area - delay * before) / (1.0 - before)

    @cached_property
    def late(self) -> float:
        """Seconds after which it is late (one in fifty), by what is known."""
        total = sum(weight for weight, _ in self.estimates)
        if total <= 0:
            return self.soonest
        low, high = 0.0, max(estimate.late for _, estimate in self.estimates)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            if sum(weight * estimate.ended_by(middle) for weight, estimate in self.estimates) < 0.98 * total:
                low = middle
            else:
                high = middle
        return high

    def _vague_ended_by(self, elapsed: float) -> float:
        if elapsed <= self.soonest:
            return 0.0
        return math.log(min(elapsed, self._longest) / self.soonest) / math.log(self._longest / self.soonest)

    def _area(self, elapsed: float) -> float:
        area = sum(weight * estimate.area(elapsed) for weight, estimate in self.estimates)
        if elapsed <= self.soonest:
            return area
        end = min(elapsed, self._longest)
        vague = (end * math.log(end / self.soonest) - end + self.soonest) / math.log(self._longest / self.soonest)
        return area + self._vague * (vague + elapsed - end)

    @cached_property
    def _longest(self) -> float:
        return max(_LONGEST_SECONDS, 2.0 * self.soonest)


def _normal_cdf(deviations: float) -> float:
    return 0.5 * math.erfc(-deviations / math.sqrt(2.0))


def _spread(near: float, far: float) -> float:
    return math.log(far / near) / _EDGE if far > near > 0 else 0.0
