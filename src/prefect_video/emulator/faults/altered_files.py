"""Altered files: whole videos that are not what was requested, made from the proper ones without rendering."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Final

from prefect_video.emulator.faults.rules import Alteration

_TRAILER: Final = b"\r\n<!-- served by a relay -->\r\n"
_PIXEL_RATIO: Final = Fraction(4, 3)


def write_altered(video: Path, alteration: Alteration) -> Path:
    """Write the altered copy of a video beside it, once, and return its path."""
    altered = video.with_name(f"{video.stem}.{alteration}.mp4")
    if altered.exists():
        return altered
    # Published by a rename: two downloads may write the same file at the same time.
    part = altered.with_suffix(f".{time.monotonic_ns()}")
    content = video.read_bytes()
    match alteration:
        case "trailing":
            part.write_bytes(content + _TRAILER)
        case "unbranded":
            # A box of the same length that players skip: no offset in the index changes.
            part.write_bytes(content[:4] + b"free" + content[8:])
        case "stretched":
            _remux(video, part, "mp4", _PIXEL_RATIO)
        case _:
            _remux(video, part, "matroska", None)
    return part.replace(altered)


def _remux(source: Path, target: Path, container: str, pixel_ratio: Fraction | None) -> None:
    """Copy the video track into another file, as it is encoded."""
    # Imported late: PyAV would make the import of the package slow.
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", format=container) as written:
        track = read.streams.video[0]
        copy = written.add_stream_from_template(track)
        if pixel_ratio is not None:
            copy.codec_context.sample_aspect_ratio = pixel_ratio
        for packet in read.demux(track):
            if packet.dts is not None:
                packet.stream = copy
                written.mux(packet)
