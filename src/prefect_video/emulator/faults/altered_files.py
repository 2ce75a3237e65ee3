"""Altered files: whole videos that are not what was requested, made from the proper ones."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefect_video.emulator.faults.rules import Alteration

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

_TRAILER: Final = b"\r\n<!-- served by a relay -->\r\n"
_PIXEL_RATIO: Final = Fraction(4, 3)
_ENCODER: Final = {"preset": "ultrafast", "threads": "1"}
_BLACK_PLANES: Final = (16, 128, 128)


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
        case "silent":
            _silence(video, part)
        case "black" | "frozen":
            _redraw(video, part, is_black=alteration == "black")
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


def _redraw(source: Path, target: Path, *, is_black: bool) -> None:
    """Write a video whose every frame is black, or the first one; its sound stays as it is."""
    import av
    from av.video.frame import PictureType

    with av.open(str(source)) as read, av.open(str(target), "w", format="mp4") as written:
        track = read.streams.video[0]
        drawn = written.add_stream("libx264", rate=track.average_rate, options=_ENCODER)
        drawn.width, drawn.height, drawn.pix_fmt = track.width, track.height, "yuv420p"
        sounds = {sound.index: written.add_stream_from_template(sound) for sound in read.streams.audio}
        picture: VideoFrame | None = None
        for packet in read.demux():
            if packet.stream.index in sounds:
                _copy_packet(packet, sounds[packet.stream.index], written)
                continue
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    picture = picture or (_black(frame) if is_black else frame)
                    picture.pts, picture.time_base = frame.pts, frame.time_base
                    # Else the encoder would repeat the kind of the source's first frame: a key frame each time.
                    picture.pict_type = PictureType.NONE
                    written.mux(drawn.encode(picture))
        written.mux(drawn.encode(None))


def _silence(source: Path, target: Path) -> None:
    """Write a video whose sound is silence; its picture is copied as it is encoded."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", format="mp4") as written:
        pictures = {track.index: written.add_stream_from_template(track) for track in read.streams.video}
        sounds = {sound.index: written.add_stream("aac", rate=sound.rate) for sound in read.streams.audio}
        for packet in read.demux():
            if packet.stream.index in pictures:
                _copy_packet(packet, pictures[packet.stream.index], written)
                continue
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    for plane in frame.planes:
                        plane.update(bytes(plane.buffer_size))
                    written.mux(sounds[packet.stream.index].encode(frame))
        for sound in sounds.values():
            written.mux(sound.encode(None))


def _copy_packet(packet: Packet[Any], track: Any, written: OutputContainer) -> None:
    if packet.dts is not None:
        packet.stream = track
        written.mux(packet)


def _black(like: VideoFrame) -> VideoFrame:
    """Return a black frame of the same size as another."""
    import av

    frame = av.VideoFrame(like.width, like.height, "yuv420p")
    for plane, level in zip(frame.planes, _BLACK_PLANES, strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    return frame
