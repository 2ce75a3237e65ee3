"""Measures of a finished film: it is decoded whole, and must be what was requested, before anything is published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av import VideoFrame

from prefect_video.errors import FilmError
from prefect_video.film.arrangement import Arrangement
from prefect_video.film.clip_media import codec_name, find_picture, open_clip
from prefect_video.film.sound import measure_loudness

TOLERANCE_SECONDS: Final = 0.1


@dataclass(frozen=True)
class FilmMeasures:
    """Measures of a film.

    Attributes:
        seconds: Length of the picture.
        frames: Number of frames that were decoded.
        width: Pixels, as stored.
        height: Pixels, as stored.
        fps: Frames per second.
        codec: Name of the video codec.
        sound_seconds: Length of the sound; None where there is none.
        lufs: Integrated loudness; None for silence.
    """

    seconds: float
    frames: int
    width: int
    height: int
    fps: float
    codec: str
    sound_seconds: float | None
    lufs: float | None


def measure_film(path: Path, on_frame: Callable[[int, VideoFrame], None]) -> FilmMeasures:
    """Decode a film whole.

    Args:
        path: The film.
        on_frame: Called with the number of every frame, and the frame.

    Raises:
        FilmError: It cannot be decoded.
    """
    try:
        with open_clip(path) as container:
            stream = find_picture(container)
            stream.thread_type = "AUTO"
            frames, begin, end = 0, None, Fraction(0)
            step = 1 / Fraction(stream.average_rate or 24)
            for frame in container.decode(stream):
                on_frame(frames, frame)
                frames += 1
                at = Fraction((frame.pts or 0) * (frame.time_base or Fraction(0)))
                begin, end = at if begin is None else min(begin, at), max(end, at + step)
            context = stream.codec_context
            measures = FilmMeasures(
                seconds=float(end - (begin or 0)),
                frames=frames,
                width=context.width,
                height=context.height,
                fps=float(1 / step),
                codec=codec_name(context),
                sound_seconds=None,
                lufs=None,
            )
        return _with_sound(path, measures)
    except av.FFmpegError as error:
        raise FilmError(f"the finished film cannot be decoded: {error}") from error


def _with_sound(path: Path, measures: FilmMeasures) -> FilmMeasures:
    samples, rate = 0, 1
    with open_clip(path) as container:
        if not container.streams.audio:
            return measures
        for frame in container.decode(container.streams.audio[0]):
            samples, rate = samples + frame.samples, frame.sample_rate
    loudness = measure_loudness(path)
    lufs = None if loudness is None else round(loudness.lufs, 2)
    return replace(measures, sound_seconds=samples / rate, lufs=lufs)


def require_as_arranged(measures: FilmMeasures, film: Arrangement) -> None:
    """Raise unless a film is as it was arranged: its length, frames, size, and sound where there should be some.

    Raises:
        FilmError: It is not; the message says in which respects.
    """
    expected, (width, height) = float(film.seconds), film.form.size
    wrong: list[str] = []
    if abs(measures.seconds - expected) > TOLERANCE_SECONDS:
        wrong.append(f"it lasts {measures.seconds:.2f} s instead of {expected:.2f} s")
    if abs(measures.frames - film.frames) > TOLERANCE_SECONDS * film.form.fps:
        wrong.append(f"{measures.frames} of {film.frames} frames can be decoded")
    if (measures.width, measures.height) != film.form.size:
        wrong.append(f"it has {measures.width}x{measures.height} pixels instead of {width}x{height}")
    if (measures.sound_seconds is not None) != film.has_sound:
        wrong.append("its sound is missing" if film.has_sound else "it has sound, and no part of it has")
    elif measures.sound_seconds is not None and measures.sound_seconds < expected - TOLERANCE_SECONDS:
        wrong.append(f"its sound lasts {measures.sound_seconds:.2f} s instead of {expected:.2f} s")
    if wrong:
        raise FilmError(f"the finished film is not as it should be: {'; '.join(wrong)}; it was not published")


def digest_packets(path: Path) -> str:
    """Return the SHA-256 digest of all packets of a film: what a manifest in its file does not change."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for packet in container.demux():
            digest.update(bytes(packet))
    return digest.hexdigest()
