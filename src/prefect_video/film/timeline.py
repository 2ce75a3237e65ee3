"""Timeline of a film: its parts in order, how long each is and how long two of them are seen at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prefect_video.film.cut import Card, Cut, CutClip, Transition

_SLACK_SECONDS = 0.001
"""What sums of floats may be off by."""


class CutProblem(NamedTuple):
    """Something in a cut that cannot be made.

    Attributes:
        message: What is wrong, and what is possible.
        at: The place in the cut, such as `("order", 2, "trim")`.
    """

    message: str
    at: tuple[str | int, ...]


@dataclass(frozen=True)
class Part:
    """One part of a film.

    Attributes:
        content: A card or a clip.
        transition: From the part before it; of the first part it has no effect.
        at: Its place in the cut.
    """

    content: Card | CutClip
    transition: Transition
    at: tuple[str | int, ...]

    @property
    def name(self) -> str:
        """Name for messages, such as `clip 'opening'`."""
        if isinstance(self.content, CutClip):
            return f"clip {self.content.label!r}"
        return "the title card" if self.at == ("title_card",) else "the end card"


def list_parts(cut: Cut, shots: Sequence[str]) -> list[Part]:
    """List the parts of a film in order: the cards, and the clips of the cut, else one of every shot.

    Args:
        cut: The cut.
        shots: Ids of the project's shots, in order.
    """
    clips = tuple(CutClip(shot=shot) for shot in shots) if cut.order is None else cut.order
    parts: list[Part] = []
    before = None
    if (title := cut.title_card) is not None:
        parts.append(Part(title, cut.transition, ("title_card",)))
        before = title.transition
    for number, clip in enumerate(clips):
        parts.append(Part(clip, clip.transition or before or cut.transition, ("order", number)))
        before = None
    if (end := cut.end_card) is not None:
        parts.append(Part(end, end.transition or cut.transition, ("end_card",)))
    return parts


def list_clips(cut: Cut, shots: Sequence[str]) -> list[CutClip]:
    """List the clips of a film in order; one that is used twice is listed twice."""
    return [part.content for part in list_parts(cut, shots) if isinstance(part.content, CutClip)]


def find_problems(cut: Cut, seconds: Mapping[str, float | None], takes: Mapping[str, int]) -> Iterator[CutProblem]:
    """Find what in a cut does not fit the shots that were requested.

    Args:
        cut: The cut.
        seconds: Requested length of every shot by its id, in order; None where it is not known.
        takes: Number of takes of every shot.
    """
    parts = list_parts(cut, list(seconds))
    for part in parts:
        if isinstance(part.content, CutClip):
            yield from _find_clip_problems(part.content, part.at, seconds, takes)
    lengths = [_requested_seconds(part.content, seconds) for part in parts]
    yield from find_overlaps(parts, lengths)


def _find_clip_problems(
    clip: CutClip, at: tuple[str | int, ...], lengths: Mapping[str, float | None], takes: Mapping[str, int]
) -> Iterator[CutProblem]:
    if clip.shot not in lengths:
        yield CutProblem(f"{clip.shot!r} is not a shot of this project", (*at, "shot"))
        return
    seconds = lengths[clip.shot]
    if clip.take is not None and clip.take > takes[clip.shot]:
        yield CutProblem(
            f"there is no take {clip.take} of shot {clip.shot!r}: its `takes` is {takes[clip.shot]}", (*at, "take")
        )
    if seconds is not None and max(clip.trim.start + _SLACK_SECONDS, clip.trim.end or 0.0) > seconds + _SLACK_SECONDS:
        limit = clip.trim.end or clip.trim.start
        yield CutProblem(f"shot {clip.shot!r} lasts {seconds:g} s and is to be cut at {limit:g} s", (*at, "trim"))


def _requested_seconds(content: Card | CutClip, seconds: Mapping[str, float | None]) -> float | None:
    if isinstance(content, Card):
        return content.seconds
    return trimmed_seconds(content, seconds.get(content.shot))


def trimmed_seconds(clip: CutClip, seconds: float | None) -> float | None:
    """Return how long the used part of a clip is; None where the length of the clip is needed and not known."""
    if clip.trim.end is not None:
        return (clip.trim.end if seconds is None else min(clip.trim.end, seconds)) - clip.trim.start
    return None if seconds is None else seconds - clip.trim.start


def find_overlaps(parts: Sequence[Part], lengths: Sequence[float | None]) -> Iterator[CutProblem]:
    """Find the parts that are shorter than the crossfades at their two ends.

    Args:
        parts: The parts of the film.
        lengths: Seconds of each; None where they are not known.
    """
    joins = [0.0, *(part.transition.length_seconds for part in parts[1:]), 0.0]
    for number, (part, seconds) in enumerate(zip(parts, lengths, strict=True)):
        needed = joins[number] + joins[number + 1]
        if seconds is not None and needed > seconds + _SLACK_SECONDS:
            yield CutProblem(
                f"{part.name} lasts {seconds:.3g} s, and the crossfades at its ends take {needed:.3g} s: make them"
                " shorter, or the part longer",
                part.at,
            )


def estimate_seconds(cut: Cut, seconds: Mapping[str, float | None]) -> float | None:
    """Estimate the length of a film from the requested seconds of every shot by its id, in order; None if not known."""
    parts = list_parts(cut, list(seconds))
    lengths = [_requested_seconds(part.content, seconds) for part in parts]
    if any(length is None for length in lengths):
        return None
    joins = sum(part.transition.length_seconds for part in parts[1:])
    return sum(length for length in lengths if length is not None) - joins
