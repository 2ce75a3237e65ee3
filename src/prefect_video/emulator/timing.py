"""Durations of the emulated work on generations."""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple, Self

FASTEST, SLOWEST = 6.0, 12.0
"""Seconds of work per second of video, by the reference contract."""

QUEUED_SHARE = 0.05
"""Share of its whole time that a generation spends queued."""


class WorkDistribution(NamedTuple):
    """Random distribution of work times.

    Attributes:
        kind: Name of the distribution.
        value: Seconds for `fixed`, sigma for `lognormal`, unused for `uniform`.
    """

    kind: Literal["uniform", "fixed", "lognormal"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `uniform`, `fixed:SECONDS` or `lognormal:SIGMA`.

        Raises:
            ValueError: The text is none of these, or its number is negative or not a number.
        """
        name, _, number = text.partition(":")
        if text == "uniform":
            return cls("uniform")
        if name in ("fixed", "lognormal"):
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if 0 <= value < float("inf"):
                return cls("fixed" if name == "fixed" else "lognormal", value)
        raise ValueError(f"times is {text!r}; write uniform, fixed:SECONDS or lognormal:SIGMA")

    def work_seconds(self, seed: str, duration: int) -> float:
        """Return the seconds of work on a video of `duration` seconds at speed 1; equal seeds give equal times."""
        rng = Random(f"work:{seed}")
        if self.kind == "fixed":
            return self.value
        if self.kind == "lognormal":
            return duration * (FASTEST + SLOWEST) / 2 * rng.lognormvariate(0.0, self.value)
        return duration * rng.uniform(FASTEST, SLOWEST)
