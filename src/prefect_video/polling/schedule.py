"""When to look at a generation: not while it cannot be done, closely around the expected moment, ever less after.

What is expected is a distribution: the provider's own estimate where it gives one, else what the ledger has learned,
else the guide's 6 to 12 seconds of work for a second of video. The next look is taken when it has become likely
enough that the generation has ended since the last one.
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
"""Standard deviations from the median to what counts as implausible: one in fifty."""
_TENTH: Final = -_NORMAL.inv_cdf(0.1)

_HINT_SECONDS: Final = 1.0
"""Estimates come in whole seconds, so the moment meant is up to one second before."""
_HINT_SHARE: Final = 0.1
"""How much later than estimated, as a part of the whole, counts as late."""
_TOO_HOPEFUL: Final = 0.8
"""Estimates that are wrong by more than this, as a part of what was learned, are not believed."""
_NOTICED_SHARE: Final = 0.03
"""Learned times hold the moment of notice, a little after the end: look that much earlier than they say."""
_CLOCK_SECONDS: Final = 2.0
"""A provider's clock that seems to be this near to ours is taken to agree with it: its times are whole seconds."""


@dataclass(frozen=True)
class CompletionEstimate:
    """When a generation should be done, in seconds since it was submitted.

    Between these moments the logarithm of the time is spread normally, with a width of its own to either side.

    Attributes:
        earliest: Before this, completion is implausible (one in fifty).
        likely: The moment around which it is expected (the median).
        latest: After this, it is late (one in fifty); None for as far from `likely` as `earliest` is, by ratio.
        hoped: An earlier moment for which the provider has given hope: worth one look.
    """

    earliest: float
    likely: float
    latest: float | None = None
    optimistic: float | None = None

    @property
    def late(self) -> float:
        """The moment after which it is late."""
        if self.latest is not None:
            return self.latest
        return self.likely**2 / self.earliest if self.earliest > 0 else 2 * self.likely

    def ended_by(self, elapsed: float) -> float:
        """The chance, 0 to 1, that it has ended after so many seconds."""
        if elapsed <= 0 or self.likely <= 0:
            return float(elapsed >= self.likely)
        spread = self._spread(early=elapsed < self.likely)
        if spread <= 0:
            return float(elapsed >= self.likely)
        return _NORMAL.cdf(math.log(elapsed / self.likely) / spread)

    def moment(self, chance: float) -> float:
        """After how many seconds it has ended with a chance between 0 and 1, both excluded."""
        return self.likely * math.exp(self._spread(early=chance < 0.5) * _NORMAL.inv_cdf(chance))

    def _spread(self, *, early: bool) -> float:
        near, far = (self.earliest, self.likely) if early else (self.likely, self.late)
        return math.log(far / near) / _EDGE if far > near > 0 else 0.0


@dataclass(frozen=True)
class PollSchedule:
    """How densely to look, relative to the time a generation takes.

    Attributes:
        shortest_seconds: Between two looks at one generation, at the least.
        longest_seconds: Between two looks, at the most.
        share: Between two looks around the expected moment, at the most, as a part of the elapsed time: an end is
            noticed at most that much late.
        closest_share: Between two looks, at the least, as a part of the elapsed time.
        chance: The next look comes when the generation has ended since the last one with this chance.
        grace_seconds: How long news that is on its way in another manner is waited for, at the least, past the moment
            after which a generation is late.
        vary: By how much at most delays differ at random, as a part of them, so that processes do not march in step.
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
        asked: float | None = None,
        relaxed: bool = False,
        dice: Callable[[], float] = random.random,
    ) -> float:
        """Seconds to wait before the next look.

        Args:
            elapsed: Seconds since the submit.
            expected: When the generation should be done.
            asked: What the provider asked for with its last answer; never gone below.
            relaxed: Whether the end is announced in another way, so that looking is a fallback only.
            dice: Gives random numbers from 0 to 1.
        """
        first = self._relaxed_look(expected) if relaxed else self.first_poll(expected)
        if expected.optimistic is not None and not relaxed and elapsed < expected.optimistic:
            first = expected.optimistic
        if elapsed < first:
            delay = first - elapsed
            return max(delay * (1.0 + self.vary * dice() / 5), self.shortest_seconds, asked or 0.0)
        delay = self._interval(elapsed, expected, relaxed)
        return max(delay * (1.0 + self.vary * (2 * dice() - 1)), asked or 0.0)

    def is_worth_polling(self, elapsed: float, expected: CompletionEstimate, *, relaxed: bool) -> bool:
        """Whether one that was never looked at may be done, and the news of it, if any is on its way, is late."""
        if relaxed:
            return elapsed >= self._relaxed_look(expected)
        return elapsed >= (expected.earliest if expected.optimistic is None else expected.optimistic)

    def first_poll(self, expected: CompletionEstimate) -> float:
        """Seconds from the submit to the first look: as if one at the earliest moment had been in vain."""
        return expected.earliest + self._interval(expected.earliest, expected, relaxed=False)

    def _relaxed_look(self, expected: CompletionEstimate) -> float:
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
    """What to expect of a submitted generation.

    An estimate by the provider is trusted, unless it has been too hopeful for generations of this kind before. Even
    then it is worth one look: what was learned is when ends were noticed, and a provider that has become faster would
    for ever be looked at too late.

    Args:
        generation: As the provider answered the submit.
        duration_seconds: Length of the video.
        seconds_per_video_second: Least and most seconds of work for one second of video.
        learned: How long generations of this kind have taken.
        submitted_at: When it was accepted, by our clock; else what the provider says.
    """
    least, most = (factor * duration_seconds for factor in seconds_per_video_second)
    usual = _from_tenths(least, math.sqrt(least * most), most)
    if learned is not None:
        told = _from_tenths(learned.early_seconds, learned.median_seconds, learned.late_seconds)
        usual = CompletionEstimate(
            told.earliest * (1 - _NOTICED_SHARE), told.likely, max(told.late, told.likely * (1 + _NOTICED_SHARE))
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
    # Both are the provider's; by its own clock the span is right even where that clock is not.
    if abs((start - created).total_seconds()) > _CLOCK_SECONDS:
        start = created
    return max(0.0, (hint - start).total_seconds())


def _from_hint(seconds: float) -> CompletionEstimate:
    earliest = max(seconds - _HINT_SECONDS, seconds / 2)
    return CompletionEstimate(earliest, max(earliest, seconds - _HINT_SECONDS / 2), seconds * (1 + _HINT_SHARE))


def _from_tenths(early: float, median: float, late: float) -> CompletionEstimate:
    """Stretches the span that holds four of five to the one outside of which a time is implausible."""
    if not 0 < early <= median <= late:
        return CompletionEstimate(early, median, late)
    stretch = _EDGE / _TENTH
    return CompletionEstimate(median * (early / median) ** stretch, median, median * (late / median) ** stretch)
