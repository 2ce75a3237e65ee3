"""Clips with a colour and a tone of their own, and readers of finished films."""

from __future__ import annotations

import hashlib
import math
import struct
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageStat

RATE = 48_000


def write_clip(
    path: Path,
    colour: str,
    *,
    hz: float | None = None,
    seconds: float = 2.0,
    size: tuple[int, int] = (320, 180),
    fps: int = 24,
    level: float = 0.25,
    pixel_aspect: Fraction = Fraction(1),
    right_colour: str | None = None,
) -> Path:
    """Write a clip of one colour, or two side by side, in H.264, with a tone where it has one; return its path."""
    picture = Image.new("RGB", size, colour)
    picture.paste(right_colour or colour, (size[0] // 2, 0, *size))
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "8", "threads": "1"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.sample_aspect_ratio = pixel_aspect
        audio = output.add_stream("aac", rate=RATE, layout="mono") if hz else None
        for _ in range(round(seconds * fps)):
            output.mux(video.encode(av.VideoFrame.from_image(picture)))
        output.mux(video.encode(None))
        if audio is not None and hz:
            for begin in range(0, round(seconds * RATE), 1024):
                output.mux(audio.encode(_tone(hz, begin, min(1024, round(seconds * RATE) - begin), level)))
            output.mux(audio.encode(None))
    return path


def turn_clockwise(path: Path) -> Path:
    """Write into a clip of one track that players show it turned by 90° clockwise, as phones do; return its path."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def _tone(hz: float, begin: int, count: int, level: float) -> av.AudioFrame:
    frame = av.AudioFrame(format="flt", layout="mono", samples=count)
    wave = (level * math.sin(2 * math.pi * hz * (begin + n) / RATE) for n in range(count))
    frame.planes[0].update(struct.pack(f"{count}f", *wave).ljust(frame.planes[0].buffer_size, b"\0"))
    frame.sample_rate, frame.pts = RATE, begin
    return frame


def read_frames(path: Path) -> list[Image.Image]:
    """Decode a film whole."""
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def mean_colour(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> tuple[float, ...]:
    """Return the mean of red, green and blue in a picture, or in a part of it."""
    return tuple(ImageStat.Stat(image.crop(box) if box else image).mean)


def sound_levels(path: Path, window_seconds: float = 0.25) -> list[float]:
    """Return the level of a film's sound in dB, window by window."""
    samples: list[float] = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            for mono in resampler.resample(frame):
                samples += struct.unpack(f"{mono.samples}f", bytes(mono.planes[0])[: mono.samples * 4])
    count = round(window_seconds * RATE)
    windows = [samples[at : at + count] for at in range(0, len(samples) - count // 2, count)]
    return [20 * math.log10(max(1e-5, math.sqrt(sum(x * x for x in window) / len(window)))) for window in windows]


def packet_digests(path: Path) -> list[str]:
    """Return the digest of every packet of a film's picture, in their order."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return [hashlib.sha256(packet).hexdigest() for packet in packets]
