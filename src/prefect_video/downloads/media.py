"""Video files: measuring, checking against the shot, extracting a thumbnail.

All functions are synchronous and read from disk; call them with `asyncio.to_thread`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_video.errors import InvalidVideo
from prefect_video.shots import Shot

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DURATION_TOLERANCE_SECONDS: Final = 0.5
DURATION_TOLERANCE_SHARE: Final = 0.05
SIZE_TOLERANCE_PIXELS: Final = 16
SIZE_TOLERANCE_SHARE: Final = 0.04
"""Engines have frame sizes of their own near the standard ones: 832 by 480 for 480p, for example."""

_THUMBNAIL_POINT: Final = 1 / 3
_JPEG_QUALITY: Final = 85


@dataclass(frozen=True)
class Media:
    """Measured properties of a video file.

    Attributes:
        duration_seconds: Length of the video track.
        width: Pixels, as displayed (after rotation).
        height: Pixels, as displayed.
        frames: Number of frames.
        codec: Name of the video codec, such as `h264`.
        fps: Frames per second, on average.
    """

    duration_seconds: float
    width: int
    height: int
    frames: int
    codec: str
    fps: float


def probe(path: Path) -> Media:
    """Measure a video file and make sure that it is complete.

    Raises:
        InvalidVideo: It is not a video, is cut short, or cannot be decoded.
        OSError: The file cannot be read.
    """
    _check_boxes(path)
    with _open_container(path) as container:
        stream = _find_video_stream(container, path)
        declared, codec = stream.frames, stream.codec_context.name
        seconds = _read_duration(container, stream)
        first = _decode_first_frame(container, stream, path)
    counted = _count_frames(path, decode=not declared)
    if counted.frames < declared:
        # An edit list hides packets from default demuxing; they are in the file nevertheless.
        counted = _count_frames(path, decode=False, ignore_editlist=True)
    if counted.frames < max(declared, 1):
        raise InvalidVideo(f"{path.name}: cut short, {counted.frames} of {declared} frames are there")
    seconds = seconds or counted.seconds
    if seconds <= 0:
        raise InvalidVideo(f"{path.name}: its length cannot be determined")
    width, height = _displayed_size(first)
    return Media(seconds, width, height, counted.frames, codec, fps=counted.frames / seconds)


def check_media(media: Media, shot: Shot) -> None:
    """Raise unless a video matches its shot: length within 0.5 s or 5 %, size within 16 pixels or 4 %.

    The length of a shot that requests a number of frames is that of these frames (see `Shot.length_seconds`).

    Raises:
        InvalidVideo: The video does not match; the message names what was requested and what was measured.
    """
    requested = shot.length_seconds
    tolerance = max(DURATION_TOLERANCE_SECONDS, DURATION_TOLERANCE_SHARE * requested)
    if abs(media.duration_seconds - requested) > tolerance:
        raise InvalidVideo(
            f"shot {shot.id!r}: asked for {requested:g} s, the video lasts {media.duration_seconds:.2f} s"
        )
    width, height = shot.frame_size
    if not (_is_near(media.width, width) and _is_near(media.height, height)):
        raise InvalidVideo(
            f"shot {shot.id!r}: asked for {width}x{height} pixels, the video has {media.width}x{media.height}"
        )


def _is_near(measured: int, requested: int) -> bool:
    return abs(measured - requested) <= max(SIZE_TOLERANCE_PIXELS, SIZE_TOLERANCE_SHARE * requested)


def write_thumbnail(path: Path, out: Path, *, width: int = 480) -> None:
    """Write a JPEG of the frame at a third of the video, at most `width` pixels wide.

    Raises:
        InvalidVideo: No frame can be decoded.
        OSError: A file cannot be read or written.
    """
    with _open_container(path) as container:
        stream = _find_video_stream(container, path)
        frame = _decode_frame_at(container, stream, _THUMBNAIL_POINT, path)
        image = frame.to_image()  # type: ignore[no-untyped-call]
    if degrees := round(frame.rotation) % 360:
        image = image.rotate(degrees, expand=True)
    image.thumbnail((width, image.height))
    image.convert("RGB").save(out, format="JPEG", quality=_JPEG_QUALITY)


@dataclass(frozen=True)
class _FrameCount:
    frames: int
    seconds: float


def _check_boxes(path: Path) -> None:
    """Raise unless the last top-level box of an ISO-BMFF file ends where the file ends.

    FFmpeg does not notice: a file whose index comes first plays, and probes as complete, without its end.
    """
    size = path.stat().st_size
    if size == 0:
        raise InvalidVideo(f"{path.name}: the file is empty")
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] != b"ftyp":
            return
        position = 0
        while position < size:
            file.seek(position)
            head = file.read(16)
            if len(head) < 8:
                raise InvalidVideo(f"{path.name}: cut short at byte {size}, inside a box header")
            (length,) = struct.unpack(">I", head[:4])
            # A length of 1 announces one of 64 bits; 0 means up to the end of the file.
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack(">Q", head[8:])
            if length == 0:
                return
            if length < 8:
                raise InvalidVideo(f"{path.name}: not a readable MP4, box of {length} bytes at {position}")
            position += length
    if position > size:
        raise InvalidVideo(f"{path.name}: cut short, {size} of at least {position} bytes are there")


def _open_container(path: Path, *, ignore_editlist: bool = False) -> InputContainer:
    import av

    options = {"ignore_editlist": "1"} if ignore_editlist else {}
    try:
        return av.open(str(path), mode="r", metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        # Several of PyAV's errors are OSErrors as well; a file that cannot be opened at all stays one.
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InvalidVideo(f"{path.name}: not a readable video ({_describe_error(error)})") from error


def _find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    from av.stream import Disposition

    for stream in container.streams.video:
        # Cover art is a video stream too.
        if stream.disposition & Disposition.attached_pic:
            continue
        # Contrary to its type annotation, PyAV gives a track of an unknown codec no context.
        if getattr(stream, "codec_context", None) is None:
            raise InvalidVideo(f"{path.name}: the codec of its video track is not known")
        return stream
    raise InvalidVideo(f"{path.name}: has no video track")


def _decode_first_frame(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    import av

    try:
        for frame in container.decode(stream):
            return frame
    except (av.FFmpegError, ValueError, AttributeError) as error:
        raise InvalidVideo(f"{path.name}: no frame can be decoded ({_describe_error(error)})") from error
    raise InvalidVideo(f"{path.name}: no frame can be decoded")


def _decode_frame_at(container: InputContainer, stream: VideoStream, share: float, path: Path) -> VideoFrame:
    import av

    seconds = _read_duration(container, stream) * share
    start = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
    last: VideoFrame | None = None
    try:
        if seconds and stream.time_base:
            container.seek(int((start + seconds) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            last = frame
            if frame.time is None or frame.time >= start + seconds:
                break
    except (av.FFmpegError, ValueError, AttributeError) as error:
        if last is None:
            raise InvalidVideo(f"{path.name}: no frame can be decoded ({_describe_error(error)})") from error
    if last is not None:
        return last
    # The seek went past the last frame. A container that has reached its end decodes nothing more: open it again.
    with _open_container(path) as fresh:
        return _decode_first_frame(fresh, _find_video_stream(fresh, path), path)


def _count_frames(path: Path, *, decode: bool, ignore_editlist: bool = False) -> _FrameCount:
    """Count the frames: by packets where the file declares a number to compare with, else by decoding all.

    Decoding costs far more than demuxing, so it is left to files that declare nothing.
    """
    import av

    frames, ends = 0, 0.0
    starts = float("inf")
    with _open_container(path, ignore_editlist=ignore_editlist) as container:
        stream = _find_video_stream(container, path)
        base = stream.time_base or Fraction(0)
        frame_seconds = float(1 / stream.average_rate) if stream.average_rate else 0.0
        try:
            units = container.decode(stream) if decode else (p for p in container.demux(stream) if p.size)
            for unit in units:
                frames += 1
                if unit.pts is not None:
                    start = float(unit.pts * base)
                    starts = min(starts, start)
                    ends = max(ends, start + (float(unit.duration * base) if unit.duration else frame_seconds))
        except (av.FFmpegError, ValueError, AttributeError) as error:
            raise InvalidVideo(f"{path.name}: damaged after {frames} frames ({_describe_error(error)})") from error
    return _FrameCount(frames, max(0.0, ends - starts) if frames else 0.0)


def _read_duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else 0.0


def _displayed_size(frame: VideoFrame) -> tuple[int, int]:
    is_sideways = round(frame.rotation) % 180 == 90
    return (frame.height, frame.width) if is_sideways else (frame.width, frame.height)


def _describe_error(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
