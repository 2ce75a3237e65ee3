"""Picture of a film: frames of clips and cards in one size and rate, crossfades, burned captions.

Everything is a stream of frames: at no time are more than a few of them in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat
from typing import Any, Final, Literal

import av
import av.filter
from av import VideoFrame
from av.filter.context import FilterContext
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from prefect_video.errors import FilmError
from prefect_video.film.clip_media import ClipMedia, find_picture, open_clip
from prefect_video.film.cut import Cue
from prefect_video.film.graph import (
    BT709,
    Step,
    add_film_source,
    add_video_source,
    close_chain,
    drain,
    link_chain,
    push,
)
from prefect_video.film.titles import Overlay, Typeface, draw_caption

Frames = Iterator[VideoFrame]

_HDR_TRANSFERS: Final = frozenset({16, 18})
"""Transfer functions of HDR (PQ and HLG), which are converted."""
_SCALING: Final = "flags=lanczos+accurate_rnd+full_chroma_int"
"""Without exact rounding the conversion of colours makes every picture a little darker."""
_TURNS: Final = {90: "cclock", 270: "clock"}
_MISSING_SECONDS: Final = 0.5
"""How much a clip may be shorter than it declares; its last frame then stands still for that long."""


@dataclass(frozen=True)
class FilmFormat:
    """Format that every part of a film is brought into.

    Attributes:
        size: Width and height in pixels, even.
        fps: Frames per second.
        fit: What is done with clips of another shape.
        background: Colour around clips that are padded.
    """

    size: tuple[int, int]
    fps: Fraction
    fit: Literal["crop", "pad", "blur"] = "crop"
    background: str = "#000000"


@dataclass(frozen=True)
class Sequenced:
    """Part of the film's picture.

    Attributes:
        frames: Its frames.
        count: How many they are.
        crossfade: How many of them are mixed with the last ones of the part before.
    """

    frames: Frames
    count: int
    crossfade: int = 0


def clip_frames(clip: ClipMedia, form: FilmFormat, first: int, count: int) -> Frames:
    """Yield frames of a clip in a film's format.

    Args:
        clip: The clip.
        form: The film's format.
        first: Number of the first frame, at the film's rate.
        count: How many frames; the last one is repeated where the clip is a little shorter than it declares.

    Raises:
        FilmError: The clip cannot be decoded, or ends too early.
    """
    number, last = 0, None
    try:
        for last in islice(_filtered_frames(clip, form, first, count), count):
            number += 1
            yield last
    except av.FFmpegError as error:
        raise FilmError(f"{clip.path.name}: damaged after {number} frames ({error})") from error
    if last is None or count - number > max(Fraction(1), form.fps * Fraction(_MISSING_SECONDS)):
        raise FilmError(f"{clip.path.name}: only {number} of {count} frames can be decoded")
    yield from repeat(last, count - number)


def _filtered_frames(clip: ClipMedia, form: FilmFormat, first: int, count: int) -> Frames:
    with open_clip(clip.path) as container:
        stream = find_picture(container)
        stream.thread_type = "AUTO"
        graph, source, sink = None, None, None
        for frame in container.decode(stream):
            if clip.is_hd_untagged:
                frame.colorspace = Colorspace.ITU709
            if source is None or sink is None:
                graph = av.filter.Graph()
                source, sink = _build_clip_graph(graph, frame, clip, form, first, count)
            push(source, frame)
            yield from drain(sink)
        if source is not None and sink is not None:
            push(source, None)
            yield from drain(sink)


def _build_clip_graph(
    graph: av.filter.Graph, frame: VideoFrame, clip: ClipMedia, form: FilmFormat, first: int, count: int
) -> tuple[FilterContext, FilterContext]:
    """Build the graph that brings a clip into the film's format, for frames like the given one."""
    source = add_video_source(
        graph,
        (frame.width, frame.height),
        frame.format.name,
        Fraction(frame.time_base or Fraction(1, 1000)),
        clip.fps,
        pixel_aspect=clip.pixel_aspect,
        colorspace=int(frame.colorspace),
        color_range=int(frame.color_range),
    )
    timed: list[Step] = [
        ("setpts", "PTS-STARTPTS"),
        ("fps", f"fps={form.fps}"),
        ("trim", f"start_frame={first}:end_frame={first + count}"),
        *_turn_upright(clip.rotation),
    ]
    last = link_chain(graph, source, timed)
    colours = "out_color_matrix=bt709:out_range=tv"
    if int(getattr(frame, "color_trc", 0) or 0) in _HDR_TRANSFERS:
        colours += ":out_primaries=bt709:out_transfer=bt709"
    fitted = _fit_blurred(graph, last, clip, form, colours) if form.fit == "blur" else None
    if fitted is None:
        fitted = link_chain(graph, last, _fit(clip, form, colours))
    last = link_chain(graph, fitted, [("setsar", "1"), ("format", "yuv420p")])
    return source, close_chain(graph, last)


def _turn_upright(rotation: int) -> list[Step]:
    """Return the filters that turn a picture as a player would."""
    if rotation == 0:
        return []
    turn: list[Step] = [("hflip", ""), ("vflip", "")] if rotation == 180 else [("transpose", _TURNS[rotation])]
    # A frame that still bears its rotation would be turned again by whatever reads it.
    return [*turn, ("sidedata", "mode=delete:type=DISPLAYMATRIX")]


def _fit(clip: ClipMedia, form: FilmFormat, colours: str) -> list[Step]:
    """Return the filters that bring a picture into a film's size by cropping or padding it."""
    (width, height), shape = form.size, clip.size
    ratio = Fraction(shape[0], shape[1])
    if ratio == Fraction(width, height):
        return [("scale", f"{width}:{height}:{_SCALING}:{colours}")]
    if form.fit == "crop":
        # In pixels of the file, which need not be square.
        across = min(Fraction(1), Fraction(width, height) / ratio)
        down = min(Fraction(1), ratio / Fraction(width, height))
        crop = f"w=trunc(iw*{float(across):.6f}/2)*2:h=trunc(ih*{float(down):.6f}/2)*2"
        return [("crop", crop), ("scale", f"{width}:{height}:{_SCALING}:{colours}")]
    inner = _inner_size(shape, form.size)
    return [
        ("scale", f"{inner[0]}:{inner[1]}:{_SCALING}:{colours}"),
        ("pad", f"{width}:{height}:(ow-iw)/2:(oh-ih)/2:color={form.background.replace('#', '0x')}"),
    ]


def _fit_blurred(
    graph: av.filter.Graph, last: FilterContext, clip: ClipMedia, form: FilmFormat, colours: str
) -> FilterContext | None:
    """Show a clip whole on an enlarged, blurred copy of itself; None where it has the film's shape."""
    (width, height), shape = form.size, clip.size
    if Fraction(shape[0], shape[1]) == Fraction(width, height):
        return None
    split = graph.add("split")
    last.link_to(split)
    inner = _inner_size(shape, form.size)
    front = graph.add("scale", f"{inner[0]}:{inner[1]}:{_SCALING}:{colours}")
    split.link_to(front, 0, 0)
    # Blurred while it is small: the same picture at a fraction of the cost.
    small = (max(2, width // 8 * 2), max(2, height // 8 * 2))
    behind = graph.add("scale", f"{small[0]}:{small[1]}:force_original_aspect_ratio=increase:{colours}")
    split.link_to(behind, 1, 0)
    behind = link_chain(
        graph,
        behind,
        [
            ("crop", f"{small[0]}:{small[1]}"),
            ("gblur", "sigma=8"),
            ("scale", f"{width}:{height}:{colours}"),
            ("setsar", "1"),
        ],
    )
    overlay = graph.add("overlay", "(W-w)/2:(H-h)/2")
    behind.link_to(overlay, 0, 0)
    front.link_to(overlay, 0, 1)
    return overlay


def _inner_size(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest even size of a shape that fits into another."""
    scale = min(Fraction(size[0], shape[0]), Fraction(size[1], shape[1]))
    width, height = round(shape[0] * scale), round(shape[1] * scale)
    return min(size[0], width + width % 2), min(size[1], height + height % 2)


def still_frames(image: Image.Image, count: int) -> Frames:
    """Yield one picture as so many frames; the picture has the film's size."""
    frame = to_frame(image)
    return repeat(frame, count)


def to_frame(image: Image.Image) -> VideoFrame:
    """Convert a picture into a frame with the colours of HD video."""
    converted: VideoFrame = VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
    frame = converted.reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame


def join(parts: Sequence[Sequenced], form: FilmFormat) -> Frames:
    """Yield the frames of all parts, one after the other, with crossfades between them."""
    current, left = parts[0].frames, parts[0].count
    for following in parts[1:]:
        yield from islice(current, left - following.crossfade)
        if following.crossfade:
            yield from _crossfade(current, following.frames, following.crossfade, form)
        # A decoder that is closed at once, not when the last part has ended.
        getattr(current, "close", lambda: None)()
        current, left = following.frames, following.count - following.crossfade
    yield from islice(current, left)


def _crossfade(ending: Frames, beginning: Frames, count: int, form: FilmFormat) -> Frames:
    """Mix the next frames of two parts, from the first to the second."""
    graph = av.filter.Graph()
    first, second = add_film_source(graph, form.size, form.fps), add_film_source(graph, form.size, form.fps)
    mix = graph.add("xfade", f"transition=fade:duration={float(count / form.fps):.6f}:offset=0")
    first.link_to(mix, 0, 0)
    second.link_to(mix, 0, 1)
    # Said explicitly: left to itself, xfade works in full chroma, and the frames would no longer be those of the film.
    sink = close_chain(graph, link_chain(graph, mix, [("format", "yuv420p")]))
    mixed = 0
    for number, (old, new) in enumerate(zip(islice(ending, count), islice(beginning, count), strict=True)):
        push(first, stamp(old, number, form.fps))
        push(second, stamp(new, number, form.fps))
        for frame in drain(sink):
            mixed += 1
            yield frame
    push(first, None)
    push(second, None)
    yield from islice(drain(sink), count - mixed)


def stamp(frame: VideoFrame, number: int, fps: Fraction) -> VideoFrame:
    """Give a frame its time, and leave the choice of its type to the encoder."""
    frame.pts = number
    frame.time_base = 1 / fps
    frame.pict_type = 0
    return frame


def burn_captions(frames: Frames, cues: Sequence[Cue], form: FilmFormat, typeface: Typeface) -> Frames:
    """Yield frames with captions in them; where two overlap in time, the later one is seen."""
    shown: Cue | None = None
    burner: _Burner | None = None
    for number, frame in enumerate(frames):
        cue = find_cue(cues, number / form.fps)
        if cue is not shown:
            shown = cue
            burner = None if cue is None else _Burner(draw_caption(cue.text, form.size, typeface), form)
        yield frame if burner is None else burner.burn(frame)


def find_cue(cues: Sequence[Cue], seconds: Fraction) -> Cue | None:
    """Return the caption at a time, of several the one that began last; None for none."""
    return next((cue for cue in reversed(cues) if cue.start <= seconds < cue.end), None)


class _Burner:
    """Graph that lays one picture over frames."""

    def __init__(self, overlay: Overlay, form: FilmFormat) -> None:
        self._fps = form.fps
        self._number = 0
        self._graph = av.filter.Graph()
        self._frames = add_film_source(self._graph, form.size, form.fps)
        # A picture is full range RGB; its colours become those of the film before it is laid over a frame.
        picture = add_video_source(
            self._graph, overlay.image.size, "rgba", 1 / form.fps, form.fps, colorspace=0, color_range=2
        )
        converted = link_chain(
            self._graph, picture, [("scale", f"{_SCALING}:out_color_matrix=bt709:out_range=tv"), ("format", "yuva420p")]
        )
        mix = self._graph.add("overlay", f"{overlay.left}:{overlay.top}:format=yuv420:eof_action=repeat:repeatlast=1")
        self._frames.link_to(mix, 0, 0)
        converted.link_to(mix, 0, 1)
        self._sink = close_chain(self._graph, link_chain(self._graph, mix, [("format", "yuv420p")]))
        frame = _to_transparent_frame(overlay.image)
        frame.pts, frame.time_base = 0, 1 / form.fps
        frame.colorspace, frame.color_range = 0, ColorRange.JPEG
        push(picture, frame)
        push(picture, None)

    def burn(self, frame: VideoFrame) -> VideoFrame:
        """Return a frame with the picture over it."""
        push(self._frames, stamp(frame, self._number, self._fps))
        self._number += 1
        burned: VideoFrame
        (burned,) = drain(self._sink)
        return burned


def _to_transparent_frame(image: Image.Image) -> VideoFrame:
    """Convert a picture with transparency into a frame; `VideoFrame.from_image` would drop it."""
    frame = VideoFrame(image.width, image.height, "rgba")
    (plane,) = frame.planes
    content, row = image.tobytes(), image.width * 4
    padding = bytes(plane.line_size - row)
    plane.update(b"".join(content[at : at + row] + padding for at in range(0, len(content), row)))
    return frame


def film_colours(context: Any) -> None:
    """Write the colour properties of a film into an encoder's settings."""
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = 1
