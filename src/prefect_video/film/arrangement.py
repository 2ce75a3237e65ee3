"""Arrangement of a film in frames: from what each part, where it begins, and in which format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from prefect_video.errors import FilmError
from prefect_video.film.clip_media import ClipMedia
from prefect_video.film.cut import Card, Cut, CutClip, Format
from prefect_video.film.graph import SAMPLE_RATE
from prefect_video.film.picture import FilmFormat
from prefect_video.film.timeline import Part, find_overlaps, list_parts, trimmed_seconds


@dataclass(frozen=True)
class ArrangedPart:
    """Part of a film with its place in it.

    Attributes:
        content: A card or a clip.
        clip: The clip's file; None for a card.
        begin: Number of its first frame in the film.
        count: How many frames it has.
        first: Number of its first frame in the clip, at the film's rate.
        crossfade: How many of its frames are mixed with those of the part before.
    """

    content: Card | CutClip
    clip: ClipMedia | None
    begin: int
    count: int
    first: int
    crossfade: int

    @property
    def end(self) -> int:
        """Number of the frame behind its last one."""
        return self.begin + self.count


@dataclass(frozen=True)
class Arrangement:
    """A film in frames.

    Attributes:
        cut: The requested cut.
        parts: Its parts, in order.
        form: Its format.
    """

    cut: Cut
    parts: tuple[ArrangedPart, ...]
    form: FilmFormat

    @property
    def frames(self) -> int:
        """Number of frames of the film."""
        return self.parts[-1].end

    @property
    def seconds(self) -> Fraction:
        """Length of the film."""
        return self.frames / self.form.fps

    @property
    def clips(self) -> list[ArrangedPart]:
        """Its clips, without the cards."""
        return [part for part in self.parts if part.clip is not None]

    @property
    def has_sound(self) -> bool:
        """True where a clip or music sounds."""
        return self.cut.music is not None or any(part.clip.has_sound for part in self.parts if part.clip)

    def sample(self, frame: int) -> int:
        """Return the number of the sample with which a frame begins: rounded once, so that nothing drifts."""
        return round(frame / self.form.fps * SAMPLE_RATE)


def arrange(cut: Cut, shots: Mapping[str, str | None], clips: Mapping[str, ClipMedia]) -> Arrangement:
    """Arrange a film from clips that were measured.

    A clip that continues the one before begins with that one's last frame, which a hard cut would show twice: there it
    begins with its second frame.

    Args:
        cut: The requested cut.
        shots: Ids of the project's shots, in order, each with that of the shot that it continues.
        clips: The clips by their labels, such as `opening` and `opening@2`.

    Raises:
        FilmError: A clip is shorter than what is asked of it.
    """
    parts = list_parts(cut, list(shots))
    lengths = [_seconds(part, clips) for part in parts]
    problems = [problem.message for problem in find_overlaps(parts, lengths)]
    if problems:
        raise FilmError("; ".join(problems))
    first_clip = next(clips[part.content.label] for part in parts if isinstance(part.content, CutClip))
    form = choose_format(cut.format, first_clip)
    arranged: list[ArrangedPart] = []
    for part, seconds in zip(parts, lengths, strict=True):
        crossfade = round(part.transition.length_seconds * form.fps) if arranged else 0
        begin = arranged[-1].end - crossfade if arranged else 0
        added = _arrange_part(part, clips, begin, crossfade, seconds, form.fps)
        repeats = bool(arranged) and _repeats_frame(added, arranged[-1], shots)
        arranged.append(replace(added, first=1, count=added.count - 1) if repeats and added.count > 1 else added)
    return Arrangement(cut, tuple(arranged), form)


def _seconds(part: Part, clips: Mapping[str, ClipMedia]) -> float:
    if isinstance(part.content, Card):
        return part.content.seconds
    clip = clips[part.content.label]
    seconds = trimmed_seconds(part.content, float(clip.seconds))
    if seconds is None or seconds <= 0:
        raise FilmError(
            f"{part.name} lasts {float(clip.seconds):.3g} s and is to begin at {part.content.trim.start:g} s"
        )
    return seconds


def _repeats_frame(part: ArrangedPart, before: ArrangedPart, shots: Mapping[str, str | None]) -> bool:
    """Return whether a part begins with the frame that the one before ends with."""
    clip, continued = part.content, before.content
    if not isinstance(clip, CutClip) or not isinstance(continued, CutClip) or part.crossfade:
        return False
    return part.first == 0 and continued.trim.end is None and shots.get(clip.shot) == continued.shot


def _arrange_part(
    part: Part, clips: Mapping[str, ClipMedia], begin: int, crossfade: int, seconds: float, fps: Fraction
) -> ArrangedPart:
    content = part.content
    if isinstance(content, Card):
        return ArrangedPart(content, None, begin, max(1, round(seconds * fps)), 0, crossfade)
    clip = clips[content.label]
    first = round(content.trim.start * fps)
    whole = clip.seconds if content.trim.end is None else min(Fraction(content.trim.end), clip.seconds)
    return ArrangedPart(content, clip, begin, max(1, round(whole * fps) - first), first, crossfade)


def choose_format(wanted: Format, first_clip: ClipMedia) -> FilmFormat:
    """Choose a film's format: what is not requested is as in its first clip."""
    width, height = first_clip.size
    ratio = Fraction(width, height)
    if wanted.aspect_ratio is not None:
        across, down = map(int, wanted.aspect_ratio.split(":"))
        ratio = Fraction(across, down)
    short = wanted.lines or min(width, height)
    size = (width, height)
    if wanted.aspect_ratio is not None or wanted.resolution is not None:
        size = (_even(short * max(ratio, Fraction(1))), _even(short / min(ratio, Fraction(1))))
    fps = first_clip.fps if wanted.fps is None else Fraction(wanted.fps).limit_denominator(1001)
    return FilmFormat(size, fps, wanted.fit, wanted.background)


def _even(pixels: Fraction | int) -> int:
    whole = round(pixels)
    return whole + whole % 2
