"""Pictures for tests: images of known content, frames of videos, and the similarity of two pictures."""

from __future__ import annotations

import io
import math
from pathlib import Path

import av
from PIL import Image, ImageChops, ImageOps


def draw(hue: int, size: tuple[int, int] = (640, 360)) -> bytes:
    """Return a PNG with gradients; another hue is another picture."""
    slope = Image.linear_gradient("L").resize(size)
    buffer = io.BytesIO()
    Image.merge("RGB", (slope, slope.rotate(180), Image.new("L", size, hue))).save(buffer, "PNG")
    return buffer.getvalue()


def decode(video: Path) -> list[Image.Image]:
    """Return all frames of a video."""
    with av.open(str(video)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


def psnr(frame: Image.Image, picture: bytes) -> float:
    """Return the peak signal-to-noise ratio of a frame and a picture, scaled to it, in decibels."""
    with Image.open(io.BytesIO(picture)) as image:
        wanted = ImageOps.fit(image.convert("RGB"), frame.size)
    histogram = ImageChops.difference(frame.convert("RGB"), wanted).histogram()
    squares = sum(count * (index % 256) ** 2 for index, count in enumerate(histogram))
    mean = squares / (frame.width * frame.height * 3)
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def audio_seconds(video: Path) -> float | None:
    """Return the length of a video's AAC track by its decoded samples; None without one."""
    with av.open(str(video)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        assert stream.codec_context.name == "aac"
        return sum(frame.samples for frame in container.decode(stream)) / stream.codec_context.sample_rate
