"""Filter graphs of PyAV: sources that carry every property, chains, and the loop that drains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import av
import av.filter
from av.error import BlockingIOError as NothingYet
from av.error import EOFError as Closed
from av.filter.context import FilterContext

SAMPLE_RATE: Final = 48_000
"""Samples a second of every sound on its way to a film, which is stereo in 32-bit floats."""

BT709: Final = 1
"""Number of the usual colour properties in FFmpeg."""

FILTERS: Final = (
    *("buffer", "buffersink", "setpts", "fps", "trim", "scale", "crop", "pad", "setsar", "format", "overlay"),
    *("split", "gblur", "transpose", "hflip", "vflip", "sidedata", "xfade"),
    *("abuffer", "abuffersink", "aresample", "aformat", "apad", "atrim", "asetpts", "acrossfade"),
    *("asplit", "volume", "afade", "sidechaincompress", "amix", "loudnorm", "ebur128"),
)
"""The filters that a film may need."""

Step = tuple[str, str]
"""A filter and its arguments."""


def find_absent_filters() -> list[str]:
    """Return which of `FILTERS` the installed FFmpeg does not have."""
    return sorted(set(FILTERS) - set(av.filter.filters_available))


def link_chain(graph: av.filter.Graph, source: FilterContext, steps: Sequence[Step]) -> FilterContext:
    """Add filters one behind the other; return the last one."""
    for name, arguments in steps:
        added = graph.add(name, arguments or None)
        source.link_to(added)
        source = added
    return source


def close_chain(graph: av.filter.Graph, last: FilterContext, kind: str = "buffersink") -> FilterContext:
    """Add the sink behind the last filter of a graph and configure it; return the sink."""
    sink = graph.add(kind)
    last.link_to(sink)
    graph.configure()
    return sink


def add_film_source(graph: av.filter.Graph, size: tuple[int, int], fps: Fraction) -> FilterContext:
    """Add a source for frames that have the film's size, rate and colours."""
    return add_video_source(graph, size, "yuv420p", 1 / fps, fps)


def add_video_source(
    graph: av.filter.Graph,
    size: tuple[int, int],
    pixel_format: str,
    time_base: Fraction,
    fps: Fraction,
    *,
    pixel_aspect: Fraction = Fraction(1),
    colorspace: int = BT709,
    color_range: int = 1,
) -> FilterContext:
    """Add a source for frames, with every property: `Graph.add_buffer` sets neither rate nor colours."""
    arguments = {
        "video_size": f"{size[0]}x{size[1]}",
        "pix_fmt": pixel_format,
        "time_base": str(time_base),
        "frame_rate": str(fps),
        "pixel_aspect": str(pixel_aspect),
        "colorspace": str(colorspace),
        "range": str(color_range),
    }
    return graph.add("buffer", **arguments)


def add_sound_source(
    graph: av.filter.Graph,
    *,
    rate: int = SAMPLE_RATE,
    sample_format: str = "fltp",
    layout: str = "stereo",
    time_base: Fraction | None = None,
) -> FilterContext:
    """Add a source for audio frames; by default those of a film."""
    base = time_base or Fraction(1, rate)
    return graph.add(
        "abuffer", sample_rate=str(rate), sample_fmt=sample_format, channel_layout=layout, time_base=str(base)
    )


def push(source: FilterContext, frame: Any) -> None:
    """Push a frame, or None as the end; a source behind which everything has ended takes nothing more."""
    try:
        source.push(frame)
    except Closed:
        return


def drain(sink: FilterContext) -> Iterator[Any]:
    """Yield every frame that is ready."""
    while True:
        try:
            yield sink.pull()
        except (NothingYet, Closed):
            return
