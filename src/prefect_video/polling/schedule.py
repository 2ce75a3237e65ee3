"""Poll schedule: no poll while a generation cannot be done, dense around the expected moment, sparser after it.

The expectation is a distribution: the provider's own estimate where it gives one, else what the ledger has learned,
else the guide's 6 to 12 seconds of work for a second of video. The next poll is due when it has become likely enough
that the generation has ended since the last one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Final

from prefect_video.generations import Generation
from prefect_video.ledger import LatencyQuantiles

_NORMAL: Final = NormalDist()
_EDGE: Final = -_NORMAL.inv_cdf(0.02)
"""Standard deviations from the median to an implausible time: one in fifty."""
_TENTH: Final = -_NORMAL.inv_cdf(0.1)

_HINT_SECONDS: Final = 1.0
"""Estimates come in whole seconds, so the moment meant is up to one second before."""
_HINT_SHARE: Final = 0.1
"""How much later than estimated, as a part of the whole, counts as late."""
_TOO_HOPEFUL: Final = 0.8
"""Estimates that are wrong by more than this, as a part of what was learned, are not believed."""
_NOTICED_SHARE: Final = 0.03
"""Learned times end with the poll that noticed the end, a little after it: poll earlier by this share."""
_CLOCK_SECONDS: Final = 2.0
"""A provider's clock within this distance of ours counts as equal: its times are whole seconds."""


@dataclass(frozen=True)
class CompletionEstimate:
    """Distribution of the time that a generation takes, in seconds since it was submitted.

    The logarithm of the time is normally distributed, with a width of its own on either side of the median.

    Attributes:
        earliest: Before this, completion is implausible (one in fifty).
        likely: The moment around which it is expected (the median).
        latest: After this, it is late (one in fifty); None for as far from `likely` as `earliest` is, by ratio.
        optimistic: An earlier moment that the provider has named: worth one poll.
    """

    earliest: float
    likely: float
    latest: float | None = None
    optimistic: float | None = None

    @property
    def late(self) -> float:
        """Seconds after which it is late."""
        if self.latest is not None:
            return self.latest
        return self.likely**2 / self.earliest if self.earliest > 0 else 2 * self.likely

    def ended_by(self, elapsed: float) -> float:
        """Return the chance, 0 to 1, that it has ended after so many seconds."""
        if elapsed <= 0 or self.likely <= 0:
            return float(elapsed >= self.likely)
        spread = self._spread(early=elapsed < self.likely)
        if spread <= 0:
            return float(elapsed >= self.likely)
        return _NORMAL.cdf(math.log(elapsed / self.likely) / spread)

    def moment(self, chance: float) -> float:
        """Return the seconds after which it has ended with a chance between 0 and 1, both excluded."""
        return self.likely * math.exp(self._spread(early=chance < 0.5) * _NORMAL.inv_cdf(chance))

    def _spread(self, *, early: bool) -> float:
        near, far = (self.earliest, self.likely) if early else (self.likely, self.late)
        return math.log(far / near) / _EDGE if far > near > 0 else 0.0


@dataclass(frozen=True)
class PollSchedule:
    """Adaptive polling intervals, relative to the time that a generation takes.

    Attributes:
        shortest_seconds: Shortest interval between two polls of one generation.
        longest_seconds: Longest interval.
        share: Longest interval around the expected moment, as a share of the elapsed time: an end is noticed at most
            that much late.
        closest_share: Shortest interval, as a share of the elapsed time.
        chance: The next poll is due when the generation has ended since the last one with this chance.
        grace_seconds: Least time to wait for a webhook past the moment after which a generation is late.
        vary: Random variation of delays, as a share of them, so that processes do not poll in step.
    """

    shortest_seconds: float = 0.25
    longest_seconds: float = 60.0
    share: float = 0.1
    closest_share: float = 0.02
    chance: float = 0.25
    grace_seconds: float = 3.0
    vary: float = 0.05

    def next_delay(
        self,
        elapsed: float,
        expected: CompletionEstimate,
        *,
        retry_after: float | None = None,
        relaxed: bool = False,
        rng: Callable[[], float] = random.random,
    ) -> float:
        """Return the seconds to wait before the next poll.

        Args:
            elapsed: Seconds since the submit.
            expected: When the generation should be done.
            retry_after: Seconds that the provider requested with its last answer; a lower bound.
            relaxed: A webhook announces the end, so that polling is a fallback only.
            rng: Returns random numbers from 0 to 1.
        """
        first = self._first_fallback_poll(expected) if relaxed else self.first_poll(expected)
        if expected.optimistic is not None and not relaxed and elapsed < expected.optimistic:
            first = expected.optimistic
        if elapsed < first:
            delay = first - elapsed
            return max(delay * (1.0 + self.vary * rng() / 5), self.shortest_seconds, retry_after or 0.0)
        delay = self._interval(elapsed, expected, relaxed)
        return max(delay * (1.0 + self.vary * (2 * rng() - 1)), retry_after or 0.0)

    def is_worth_polling(self, elapsed: float, expected: CompletionEstimate, *, relaxed: bool) -> bool:
        """Return whether one that was never polled may be done, and its webhook, where one is expected, is late."""
        if relaxed:
            return elapsed >= self._first_fallback_poll(expected)
        return elapsed >= (expected.earliest if expected.optimistic is None else expected.optimistic)

    def first_poll(self, expected: CompletionEstimate) -> float:
        """Return the seconds from the submit to the first poll: the one after a poll at the earliest moment."""
        return expected.earliest + self._interval(expected.earliest, expected, relaxed=False)

    def _first_fallback_poll(self, expected: CompletionEstimate) -> float:
        return max(expected.late * 1.5, expected.late + self.grace_seconds)

    def _interval(self, elapsed: float, expected: CompletionEstimate, relaxed: bool) -> float:
        widest = self.share * elapsed
        overdue = elapsed - (expected.likely if relaxed else expected.late)
        if overdue >= 0:
            wanted = widest + overdue / 4
        else:
            ended = expected.ended_by(elapsed)
            likely_enough = expected.moment(min(ended + self.chance * (1.0 - ended), 0.999))
            wanted = min(max(likely_enough - elapsed, self.closest_share * elapsed), widest)
        return min(max(wanted, self.shortest_seconds), self.longest_seconds)


def estimate_completion(
    generation: Generation,
    *,
    duration_seconds: float,
    seconds_per_video_second: tuple[float, float],
    learned: LatencyQuantiles | None = None,
    submitted_at: datetime | None = None,
) -> CompletionEstimate:
    """Estimate when a submitted generation will be done.

    An estimate by the provider is trusted, unless it has been too optimistic for generations of this kind before. Even
    then it is worth one poll: learned times are when ends were noticed, and a provider that has become faster would
    otherwise be polled too late indefinitely.

    Args:
        generation: The provider's answer to the submit.
        duration_seconds: Length of the video.
        seconds_per_video_second: Least and most seconds of work for one second of video.
        learned: Quantiles of the times that generations of this kind have taken.
        submitted_at: When it was accepted, by this machine's clock; None for the provider's time.
    """
    least, most = (factor * duration_seconds for factor in seconds_per_video_second)
    usual = _from_tenths(least, math.sqrt(least * most), most)
    if learned is not None:
        past = _from_tenths(learned.early_seconds, learned.median_seconds, learned.late_seconds)
        usual = CompletionEstimate(
            past.earliest * (1 - _NOTICED_SHARE), past.likely, max(past.late, past.likely * (1 + _NOTICED_SHARE))
        )
    hinted = _hinted_seconds(generation, submitted_at)
    if hinted is None:
        return usual
    if learned is not None and hinted < _TOO_HOPEFUL * usual.earliest:
        return replace(usual, optimistic=hinted)
    return _from_hint(hinted)


def _hinted_seconds(generation: Generation, submitted_at: datetime | None) -> float | None:
    hint = generation.estimated_completion_at
    if hint is None:
        return None
    created = generation.created_at or submitted_at or datetime.now(UTC)
    start = submitted_at or created
    # Both times are then the provider's: the span between them is right even where its clock is not.
    if abs((start - created).total_seconds()) > _CLOCK_SECONDS:
        start = created
    return max(0.0, (hint - start).total_seconds())


def _from_hint(seconds: float) -> CompletionEstimate:
    earliest = max(seconds - _HINT_SECONDS, seconds / 2)
    return CompletionEstimate(earliest, max(earliest, seconds - _HINT_SECONDS / 2), seconds * (1 + _HINT_SHARE))


def _from_tenths(early: float, median: float, late: float) -> CompletionEstimate:
    """Widen the span between the outer tenths to the one outside of which a time is implausible."""
    if not 0 < early <= median <= late:
        return CompletionEstimate(early, median, late)
    stretch = _EDGE / _TENTH
    return CompletionEstimate(median * (early / median) ** stretch, median, median * (late / median) ** stretch)
