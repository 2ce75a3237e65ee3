"""Video files: measuring, checking against the shot, extracting a thumbnail.

All functions are synchronous and read from disk; call them with `asyncio.to_thread`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_video.errors import InvalidVideo, VideoMismatch
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

PIXEL_TOLERANCE: Final = Fraction(1, 25)
"""Encoders that keep 16:9 at 854 by 480 note pixels of 1280:1281."""

SIGNATURE_BYTES: Final = 8
"""Number of bytes from which `has_video_signature` decides."""

_BOXES: Final = frozenset(
    b"ftyp styp moov mdat moof mfra free skip wide uuid meta sidx ssix pdin udta emsg prft pnot".split()
)
_SIGNATURES: Final = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"G@")
"""First bytes of Matroska and WebM, Ogg, Flash and MPEG transport streams."""
_FORMATS: Final = {"matroska,webm": "a WebM or Matroska file", "mpegts": "an MPEG transport stream"}

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
        container: What kind of file it is where it is not an MP4, in words; None for an MP4.
        begins_with_brand: Whether an MP4 begins with its `ftyp` box, as players expect.
        pixel_ratio: Width to height of a pixel.
        trailing_bytes: Bytes behind the last box of an MP4, which belong to no part of it.
    """

    duration_seconds: float
    width: int
    height: int
    frames: int
    codec: str
    fps: float
    container: str | None = None
    begins_with_brand: bool = True
    pixel_ratio: Fraction = Fraction(1)
    trailing_bytes: int = 0


def has_video_signature(head: bytes) -> bool:
    """Return whether a file begins like a video, given its first `SIGNATURE_BYTES`."""
    return head[4:8] in _BOXES or head.startswith(_SIGNATURES)


def probe(path: Path) -> Media:
    """Measure a video file and make sure that it is complete.

    Raises:
        InvalidVideo: It is not a video, is cut short, or cannot be decoded.
        OSError: The file cannot be read.
    """
    layout = _read_layout(path)
    with _open_container(path) as container:
        stream = _find_video_stream(container, path)
        declared, codec = stream.frames, stream.codec_context.name
        seconds = _read_duration(container, stream)
        first = _decode_first_frame(container, stream, path)
        pixel_ratio = stream.sample_aspect_ratio or Fraction(1)
        file_format = _FORMATS.get(container.format.name, f"a file of format {container.format.name}")
    if layout.trailing_bytes:
        _require_all_decoded(path, declared, layout)
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
    return Media(
        seconds,
        width,
        height,
        counted.frames,
        codec,
        fps=counted.frames / seconds,
        container=None if layout.is_mp4 else file_format,
        begins_with_brand=layout.begins_with_brand,
        pixel_ratio=pixel_ratio,
        trailing_bytes=layout.trailing_bytes,
    )


def check_media(media: Media, shot: Shot) -> None:
    """Raise unless a video matches its shot: length within 0.5 s or 5 %, size within 16 pixels or 4 %, an MP4.

    The length of a shot that requests a number of frames is that of these frames (see `Shot.length_seconds`).

    Raises:
        VideoMismatch: The video does not match; the message names what was requested and what was measured.
    """
    if reasons := list(_find_mismatches(media, shot)):
        raise VideoMismatch(f"shot {shot.id!r}: {'; '.join(reasons)}", tuple(reasons))


def _find_mismatches(media: Media, shot: Shot) -> Iterator[str]:
    requested = shot.length_seconds
    tolerance = max(DURATION_TOLERANCE_SECONDS, DURATION_TOLERANCE_SHARE * requested)
    if abs(media.duration_seconds - requested) > tolerance:
        yield f"asked for {requested:g} s, the video lasts {media.duration_seconds:.2f} s"
    width, height = shot.frame_size
    if not (_is_near(media.width, width) and _is_near(media.height, height)):
        yield f"asked for {width}x{height} pixels, the video has {media.width}x{media.height}"
    if abs(media.pixel_ratio - 1) > PIXEL_TOLERANCE:
        ratio = f"{media.pixel_ratio.numerator}:{media.pixel_ratio.denominator}"
        yield f"its pixels are not square ({ratio}): it is shown {round(media.width * media.pixel_ratio)} pixels wide"
    if media.container is not None:
        yield f"asked for an MP4, it is {media.container}"
    elif not media.begins_with_brand:
        yield "the MP4 does not begin with its `ftyp` box, and some players refuse it"


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


@dataclass(frozen=True)
class _Layout:
    """Layout of a file by its top-level boxes.

    Attributes:
        is_mp4: Whether it consists of boxes at all.
        begins_with_brand: Whether the first one is `ftyp`; True for a file without boxes.
        trailing_bytes: Bytes behind the last box.
    """

    is_mp4: bool = True
    begins_with_brand: bool = True
    trailing_bytes: int = 0


def _read_layout(path: Path) -> _Layout:
    """Read the top-level boxes of a file, and raise where the last one ends behind the end of the file.

    FFmpeg does not notice: a file whose index comes first plays, and probes as complete, without its end.
    """
    size = path.stat().st_size
    if size == 0:
        raise InvalidVideo(f"{path.name}: the file is empty")
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return _Layout(is_mp4=False)
        begins_with_brand = head[4:8] == b"ftyp"
        position, has_index = 0, False
        while position < size:
            file.seek(position)
            head = file.read(16)
            kind, end = head[4:8], _find_box_end(head, position, size)
            if end is None or (end > size and kind not in _BOXES):
                if has_index:
                    return _Layout(begins_with_brand=begins_with_brand, trailing_bytes=size - position)
                raise InvalidVideo(f"{path.name}: cut short or no readable MP4 from byte {position} on")
            if end > size:
                raise InvalidVideo(f"{path.name}: cut short, {size} of at least {end} bytes are there")
            has_index |= kind == b"moov"
            position = end
    return _Layout(begins_with_brand=begins_with_brand)


def _find_box_end(head: bytes, position: int, size: int) -> int | None:
    """Return the position behind a box; None where its first 16 bytes, or what is left of them, are of no box."""
    if len(head) < 8:
        return None
    (length,) = struct.unpack(">I", head[:4])
    # A length of 1 announces one of 64 bits; 0 means up to the end of the file.
    if length == 1 and len(head) == 16:
        (length,) = struct.unpack(">Q", head[8:])
    if length == 0:
        return size if head[4:8] in _BOXES else None
    return None if length < 8 else position + length


def _require_all_decoded(path: Path, declared: int, layout: _Layout) -> None:
    """Raise unless a file with bytes behind its last box has every frame: else these may be the rest of a cut box."""
    if not declared or _count_frames(path, decode=True).frames < declared:
        raise InvalidVideo(
            f"{path.name}: cut short, its last {layout.trailing_bytes} bytes are not a whole box and frames are missing"
        )


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
