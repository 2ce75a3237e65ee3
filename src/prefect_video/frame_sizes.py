"""Sizes of pictures: aspect ratios, resolutions, and the width and height that follow from both."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, StringConstraints

ADAPTIVE: Final = "adaptive"
"""Aspect ratio of a video that takes the shape of its first frame or reference, or that the model chooses."""

AspectRatio = Annotated[
    str, StringConstraints(pattern=r"^(?:[1-9][0-9]{0,2}:[1-9][0-9]{0,2}|adaptive)$", strict=True, max_length=8)
]
"""Width to height, such as `16:9`, or `adaptive`."""

_Lines = Literal["360p", "480p", "540p", "720p", "768p", "1080p", "1440p", "2160p"]


ALL_RESOLUTIONS: Final[tuple[_Lines, ...]] = get_args(_Lines)
"""Every resolution, the lowest first."""
COMMON_RATIOS: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "5:4", "4:5", "21:9", "9:21")
"""Aspect ratios that models offer; those of one model are fewer."""


def _to_lines(value: Any) -> Any:
    return "2160p" if isinstance(value, str) and value.lower() == "4k" else value


Resolution = Annotated[_Lines, BeforeValidator(_to_lines, json_schema_input_type=Literal[(*get_args(_Lines), "4k")])]
"""Length of the shorter side; `4k` is read as `2160p`."""

Size = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{2,3}x[1-9][0-9]{2,3}$", strict=True)]
"""Width and height in pixels, such as `1792x1024`; each 100 to 9999."""


def frame_size(aspect_ratio: AspectRatio, resolution: Resolution) -> tuple[int, int]:
    """Return width and height of a picture in pixels, for example `(1280, 720)` for 16:9 at 720p; both are even.

    The size of an adaptive picture is known to its maker only: that of 16:9 stands for it, as in price lists.
    """
    short = int(resolution[:-1])
    width, height = split_ratio("16:9" if aspect_ratio == ADAPTIVE else aspect_ratio)
    # Rounded up, then to an even number, as video codecs need.
    long = -(-short * max(width, height) // min(width, height))
    long += long % 2
    return (long, short) if width >= height else (short, long)


def split_ratio(aspect_ratio: AspectRatio) -> tuple[int, int]:
    """Return the two numbers of an aspect ratio that is not adaptive."""
    width, height = aspect_ratio.split(":")
    return int(width), int(height)


def nearest_ratio(aspect_ratio: AspectRatio, offered: Collection[AspectRatio]) -> AspectRatio | None:
    """Return the offered aspect ratio whose shape is nearest; None where none has a shape of its own."""
    shapes = [ratio for ratio in offered if ratio != ADAPTIVE]
    if aspect_ratio == ADAPTIVE or not shapes:
        return next(iter(offered), None)
    width, height = split_ratio(aspect_ratio)

    def distance(ratio: AspectRatio) -> float:
        other_width, other_height = split_ratio(ratio)
        share = width * other_height / (height * other_width)
        return max(share, 1 / share)

    return min(shapes, key=distance)
