"""Small real videos for tests."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image


def write_clip(
    path: Path,
    *,
    seconds: float = 1.0,
    size: tuple[int, int] = (320, 192),
    fps: int = 12,
    codec: str = "mpeg4",
    container: str | None = None,
    options: dict[str, str] | None = None,
    bit_rate: int = 200_000,
    key_frames: int | None = None,
) -> Path:
    """Write a clip that goes from green to red, with a key frame each `key_frames` frames, and return its path."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = bit_rate
        if key_frames is not None:
            stream.gop_size = key_frames
        frames = round(seconds * fps)
        for number in range(frames):
            shade = 255 * number // frames
            picture = Image.new("RGB", size, (shade, 255 - shade, 90))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return path
