"""Latencies: what past generations teach about those that are in progress, by kind of shot.

The ledger tells of former runs and of other processes, the poller of each end that it notices: the first end of a kind
counts at once for all others of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from prefect_video.errors import LedgerError
from prefect_video.ledger import CompletionTime, Ledger, WorkKind
from prefect_video.polling.completion import CompletionEstimate, CompletionForecast
from prefect_video.shots import Shot

logger = logging.getLogger(__name__)

_NEWEST: Final = 30
"""Completion times that are kept of each kind."""
_FEWEST_FOR_MEDIAN: Final = 5
_FADING: Final = 0.93
"""Weight of a completion time, as a share of the weight of the next newer one: ten ends halve it."""
_SURPRISE: Final = 0.01
"""An end that was less likely than this to come so early, or so late, shows that the provider has changed."""
_SURPRISE_FADING: Final = 0.2
_UNKNOWN_WEIGHT: Final = 0.12
"""Weight of what was never seen, where one completion time weighs 1."""
_GUESS_WEIGHT: Final = 0.3
"""Chance that the provider's usual speed says when a generation of a kind ends of which none was seen."""
_WIDEST: Final = 0.3
_NARROWEST: Final = 0.02
_FIRST_WIDTH: Final = 0.1
"""Width, as a share of the time, within which the next generation ends like the only one that was seen."""

_HINT_SECONDS: Final = 1.0
"""Estimates come in whole seconds, so the moment meant is up to one second before."""
_HINT_SHARE: Final = 0.1
"""How much later than estimated, as a share of the whole, counts as late."""
_HINT_TRUST: Final = (6.0, 6.6)
"""Estimates of a provider that are taken to have been right, and made, before the first end was seen."""
_DEVIATIONS: Final = 2.0537
_SOONEST_SECONDS: Final = 0.5
_FASTER_THAN_USUAL: Final = 16.0


class LatencyHistory:
    """The newest completion times of one kind of shot; old ones fade, and faster where the provider has changed.

    Args:
        past: Completion times of former runs, newest first.

    Attributes:
        version: Number that grows with each completion time.
    """

    def __init__(self, past: Sequence[CompletionTime] = ()) -> None:
        self.version = 0
        self._is_own = False
        self._past: Sequence[CompletionTime] = ()
        self._times: list[tuple[float, CompletionTime]] = []
        self._estimates: tuple[tuple[float, CompletionEstimate], ...] | None = None
        self.load(past)

    def load(self, past: Sequence[CompletionTime]) -> None:
        """Replace what former runs and other processes have seen, unless this process has seen an end itself."""
        if self._is_own or past == self._past:
            return
        self._past = past
        self._times.clear()
        for time in reversed(past[:_NEWEST]):
            self._append(time)
        self.version += 1

    def record(self, time: CompletionTime) -> None:
        """Record the end of a generation of this kind, which this process has noticed."""
        self._is_own = True
        self._append(time)
        self.version += 1

    def estimates(self) -> tuple[tuple[float, CompletionEstimate], ...]:
        """Return estimates with weights, whose sum is below 1; none where nothing was seen."""
        if self._estimates is None:
            self._estimates = self._build_estimates()
        return self._estimates

    def hint_trust(self) -> float:
        """Return the chance, 0 to 1, that an estimate by the provider is right."""
        right, made = _HINT_TRUST
        for weight, time in self._times:
            if time.hinted_seconds is not None:
                hint = _from_hint(time.hinted_seconds)
                made += weight
                right += weight * (hint.earliest - _HINT_SECONDS <= time.seconds <= hint.late + _HINT_SECONDS)
        return right / made

    def median_seconds(self) -> float | None:
        """Return the median of the times; None for too few."""
        if len(self._times) < _FEWEST_FOR_MEDIAN:
            return None
        return median(time.seconds for _, time in self._times)

    def _append(self, time: CompletionTime) -> None:
        fading = _FADING * (_SURPRISE_FADING if self._is_surprise(time.seconds) else 1.0)
        kept = [(weight * fading, earlier) for weight, earlier in self._times]
        self._times = [*kept, (1.0, time)][-_NEWEST:]
        self._estimates = None

    def _is_surprise(self, seconds: float) -> bool:
        known = self.estimates()
        total = sum(weight for weight, _ in known)
        if not total:
            return False
        ended = sum(weight * estimate.ended_by(seconds) for weight, estimate in known) / total
        return not _SURPRISE < ended < 1.0 - _SURPRISE

    def _build_estimates(self) -> tuple[tuple[float, CompletionEstimate], ...]:
        """Spread each time over its neighbourhood: the wider, the fewer and the farther the other times are."""
        ordered = sorted((math.log(time.seconds), weight) for weight, time in self._times)
        total = sum(weight for _, weight in ordered) + _UNKNOWN_WEIGHT
        logs = [log for log, _ in ordered]
        least = max(_NARROWEST, _FIRST_WIDTH / math.sqrt(max(len(logs), 1)))
        neighbours = round(math.sqrt(len(logs)))
        merged: list[tuple[float, float, float]] = []
        for log, weight in ordered:
            distances = sorted(abs(log - other) for other in logs)
            width = min(max(distances[min(neighbours, len(logs) - 1)], least), _WIDEST)
            if merged and log - merged[-1][0] < merged[-1][1] / 2:
                middle, width, before = merged[-1]
                share = weight / (before + weight)
                merged[-1] = (middle + share * (log - middle), width, before + weight)
            else:
                merged.append((log, width, weight))
        return tuple((weight / total, _around(math.exp(log), width)) for log, width, weight in merged)


class LatencyForecast:
    """The forecast of one generation, which follows what the history of its kind learns.

    Args:
        history: The history of its kind.
        hinted_seconds: The provider's estimate, in seconds since the submit, where it gave one.
        usual_seconds: Least and most seconds that the provider usually takes for such a shot.
    """

    def __init__(
        self, history: LatencyHistory, *, hinted_seconds: float | None = None, usual_seconds: tuple[float, float]
    ) -> None:
        self._history = history
        self._hinted_seconds = hinted_seconds
        self._usual_seconds = usual_seconds
        self._built: tuple[int, CompletionForecast] | None = None

    @property
    def version(self) -> int:
        """Number that grows whenever the forecast changes."""
        return self._history.version

    def current(self) -> CompletionForecast:
        """Return the forecast as of now."""
        if self._built is None or self._built[0] != self.version:
            self._built = (self.version, self._build())
        return self._built[1]

    def record_end(self, seconds: float) -> None:
        """Record how long the generation took."""
        self._history.record(CompletionTime(seconds=max(seconds, 0.001), hinted_seconds=self._hinted_seconds))

    def _build(self) -> CompletionForecast:
        least, most = self._usual_seconds
        known: tuple[tuple[float, CompletionEstimate], ...] = self._history.estimates() or (
            (_GUESS_WEIGHT, CompletionEstimate(least, math.sqrt(least * most) or most / 2, most)),
        )
        if self._hinted_seconds is not None:
            trust = self._history.hint_trust()
            rest = tuple((weight * (1.0 - trust), estimate) for weight, estimate in known)
            known = ((trust, _from_hint(self._hinted_seconds)), *rest)
        soonest = min(_SOONEST_SECONDS, most / _FASTER_THAN_USUAL) if most > 0 else _SOONEST_SECONDS
        return CompletionForecast(known, soonest)


class LatencyCache:
    """The latency histories of a provider; the ledger is read once, and again where other processes may know more.

    Args:
        ledger: The ledger that holds past generations.
        provider: The provider's name.
        refresh_seconds: Seconds after which the kinds of which this process has seen no end are read again.
    """

    def __init__(self, ledger: Ledger, provider: str, *, refresh_seconds: float = 60.0) -> None:
        self._ledger = ledger
        self._provider = provider
        self._refresh_seconds = refresh_seconds
        self._past: Mapping[WorkKind, Sequence[CompletionTime]] = {}
        self._histories: dict[WorkKind, LatencyHistory] = {}
        self._stale_at = 0.0
        self._lock = asyncio.Lock()

    async def history(self, shot: Shot) -> LatencyHistory:
        """Return the history of shots of this kind."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._stale_at:
                await self._read()
                self._stale_at = now + self._refresh_seconds
        kind = WorkKind(shot.model, shot.duration, shot.resolution)
        if kind not in self._histories:
            self._histories[kind] = LatencyHistory(self._past.get(kind, ()))
        return self._histories[kind]

    async def _read(self) -> None:
        try:
            self._past = await self._ledger.jobs.latency(self._provider)
        except LedgerError as error:
            # A worse forecast costs a few polls; it is no reason to fail a step.
            logger.warning("past latencies of %s could not be read: %s", self._provider, error)
            return
        for kind, history in self._histories.items():
            history.load(self._past.get(kind, ()))


def _from_hint(seconds: float) -> CompletionEstimate:
    earliest = max(seconds - _HINT_SECONDS, seconds / 2)
    return CompletionEstimate(earliest, max(earliest, seconds - _HINT_SECONDS / 2), seconds * (1 + _HINT_SHARE))


def _around(seconds: float, width: float) -> CompletionEstimate:
    factor = math.exp(width * _DEVIATIONS)
    return CompletionEstimate(seconds / factor, seconds, seconds * factor)
