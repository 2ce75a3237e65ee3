"""Tone of a clip: a quiet chord that the seed decides, as an AAC track of exactly the clip's length."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import Final

from av.audio.frame import AudioFrame

RATE: Final = 48_000
"""Samples per second."""
_FRAME_SAMPLES: Final = 1024
_VOLUME: Final = 0.1


def make_tone(seed: str, seconds: float) -> Iterator[AudioFrame]:
    """Yield the frames of a mono tone, the last one shorter."""
    second = _draw_second(seed)
    total = round(seconds * RATE)
    for start in range(0, total, _FRAME_SAMPLES):
        count = min(_FRAME_SAMPLES, total - start)
        frame = AudioFrame(format="fltp", layout="mono", samples=count)
        begin = start % RATE
        # A whole number of waves a second, so that it repeats without a click.
        samples = (second[begin:] + second)[:count]
        frame.planes[0].update(samples.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield frame


def _draw_second(seed: str) -> array[float]:
    root = Random(f"tone:{seed}").randrange(110, 330)
    waves = [math.tau * root * part / RATE for part in (1, 2, 3)]
    return array("f", (_VOLUME * sum(math.sin(wave * index) for wave in waves) / 3 for index in range(RATE)))
