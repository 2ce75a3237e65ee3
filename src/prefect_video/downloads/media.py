"""Video files: measuring, with a still picture, and checking against the shot.

`probe` is synchronous and reads from disk; call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from prefect_video.downloads.video_track import Track, describe_error, read_duration, read_track
from prefect_video.errors import InvalidVideo, VideoMismatch
from prefect_video.quality import QualityPolicy
from prefect_video.shots import Shot

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

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
_THUMBNAIL_WIDTH: Final = 480
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
        has_audio: Whether there is a sound track.
        may_be_signed: Whether there may be a C2PA manifest; a clean MP4 has it, or the link to it, in a `uuid` box.
        thumbnail: JPEG of the frame at a third of the video, at most 480 pixels wide; None where none can be made.
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
    has_audio: bool = False
    may_be_signed: bool = True
    thumbnail: bytes | None = field(default=None, repr=False)


def has_video_signature(head: bytes) -> bool:
    """Return whether a file begins like a video, given its first `SIGNATURE_BYTES`."""
    return head[4:8] in _BOXES or head.startswith(_SIGNATURES)


def probe(path: Path) -> Media:
    """Measure a video file, make sure that it is complete, and take its thumbnail; FFmpeg opens and reads it once.

    Raises:
        InvalidVideo: It is not a video, is cut short, or cannot be decoded.
        OSError: The file cannot be read.
    """
    layout = _read_layout(path)
    with open_container(path) as container:
        stream = find_video_stream(container, path)
        declared = stream.frames
        # Decoding costs far more than demuxing, so it is left to files that declare no number to compare with, or
        # have bytes behind their last box, which may be the rest of a cut one.
        decode_all = not declared or layout.trailing_bytes > 0
        track = read_track(container, stream, path, decode_all=decode_all, picture_at=_THUMBNAIL_POINT)
        _require_whole(path, layout, declared, track)
        frames = track.frames if declared else track.decoded
        seconds = read_duration(container, stream) or track.seconds
        if seconds <= 0:
            raise InvalidVideo(f"{path.name}: its length cannot be determined")
        width, height = _displayed_size(track.first)
        return Media(
            seconds,
            width,
            height,
            frames,
            stream.codec_context.name,
            fps=frames / seconds,
            container=None if layout.is_mp4 else _describe_format(container),
            begins_with_brand=layout.begins_with_brand,
            pixel_ratio=stream.sample_aspect_ratio or Fraction(1),
            trailing_bytes=layout.trailing_bytes,
            has_audio=bool(container.streams.audio),
            may_be_signed=layout.has_uuid_box or not layout.is_mp4 or layout.trailing_bytes > 0,
            thumbnail=_make_thumbnail(track.picture, path),
        )


def read_last_frame(path: Path) -> bytes:
    """Decode the last frame of a video, as displayed, as a PNG: no pixel of it is changed.

    Raises:
        InvalidVideo: It is not a video, or cannot be decoded to its end.
    """
    import av

    with open_container(path) as container:
        stream = find_video_stream(container, path)
        try:
            # From the last key frame on; a file without an index is decoded from its beginning.
            end = stream.duration or container.duration
            if end:
                container.seek(int(end), stream=stream if stream.duration else None)
            frame = _decode_last(container, stream)
            if frame is None:
                container.seek(0)
                frame = _decode_last(container, stream)
        except (av.FFmpegError, ValueError) as error:
            raise InvalidVideo(f"{path.name}: its last frame cannot be decoded ({describe_error(error)})") from error
        if frame is None:
            raise InvalidVideo(f"{path.name}: no frame can be decoded")
        image = frame.to_image()  # type: ignore[no-untyped-call]
    if degrees := round(frame.rotation):
        image = image.rotate(degrees, expand=True)
    content = BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _decode_last(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    last: VideoFrame | None = None
    for frame in container.decode(stream):
        # In the order of presentation, but for damaged files.
        if last is None or frame.pts is None or last.pts is None or frame.pts >= last.pts:
            last = frame
    return last


def check_media(media: Media, shot: Shot) -> None:
    """Raise unless a video matches its shot: length within 0.5 s or 5 %, size within 16 pixels or 4 %, an MP4.

    A shot that requests sound needs a sound track; the shape of one with an adaptive aspect ratio is not compared. The
    length of a shot that requests a number of frames is that of these frames (see `Shot.length_seconds`).

    Raises:
        VideoMismatch: The video does not match; the message names what was requested and what was measured.
    """
    require_match(find_mismatches(media, shot), shot)


class Mismatch(NamedTuple):
    """Respect in which a video is not as requested.

    Attributes:
        kind: The respect; `silent` is a missing sound track, `format` the kind of file and the shape of its pixels.
        reason: What was requested and what was measured.
    """

    kind: Literal["length", "size", "silent", "format"]
    reason: str


def require_match(mismatches: Sequence[Mismatch], shot: Shot) -> None:
    """Raise where there are differences from the request.

    Raises:
        VideoMismatch: There are; the message names them.
    """
    if reasons := tuple(mismatch.reason for mismatch in mismatches):
        raise VideoMismatch(f"shot {shot.id!r}: {'; '.join(reasons)}", reasons)


_NO_GATES: Final = QualityPolicy()


def find_mismatches(media: Media, shot: Shot, policy: QualityPolicy | None = None) -> list[Mismatch]:
    """Find the respects in which a video does not match its shot.

    Args:
        media: Its properties.
        shot: The request.
        policy: The gates of its project, which may accept other deviations; None for a project without.
    """
    return list(_compare(media, shot, policy or _NO_GATES))


def _compare(media: Media, shot: Shot, policy: QualityPolicy) -> Iterator[Mismatch]:
    requested, tolerance = shot.length_seconds, policy.length_tolerance_seconds
    if tolerance is None:
        tolerance = max(DURATION_TOLERANCE_SECONDS, DURATION_TOLERANCE_SHARE * requested)
    if abs(media.duration_seconds - requested) > tolerance:
        yield Mismatch("length", f"requested {requested:g} s, the video lasts {media.duration_seconds:.2f} s")
    width, height = shot.frame_size
    share = policy.size_tolerance_share
    if shot.has_own_shape and not (_is_near(media.width, width, share) and _is_near(media.height, height, share)):
        yield Mismatch("size", f"requested {width}x{height} pixels, the video has {media.width}x{media.height}")
    if abs(media.pixel_ratio - 1) > PIXEL_TOLERANCE:
        ratio = f"{media.pixel_ratio.numerator}:{media.pixel_ratio.denominator}"
        shown = f"it is shown {round(media.width * media.pixel_ratio)} pixels wide"
        yield Mismatch("format", f"its pixels are not square ({ratio}): {shown}")
    # A silent video may have an empty track, so that the opposite shows nothing.
    if shot.audio and not media.has_audio:
        yield Mismatch("silent", "requested sound, the video has no sound track")
    if media.container is not None:
        yield Mismatch("format", f"requested an MP4, it is {media.container}")
    elif not media.begins_with_brand:
        yield Mismatch("format", "the MP4 does not begin with its `ftyp` box, and some players refuse it")


def _is_near(measured: int, requested: int, share: float | None) -> bool:
    if share is None:
        return abs(measured - requested) <= max(SIZE_TOLERANCE_PIXELS, SIZE_TOLERANCE_SHARE * requested)
    return abs(measured - requested) <= share * requested


@dataclass(frozen=True)
class _Layout:
    """Layout of a file by its top-level boxes.

    Attributes:
        is_mp4: Whether it consists of boxes at all.
        begins_with_brand: Whether the first one is `ftyp`; True for a file without boxes.
        has_uuid_box: Whether one is `uuid`, for what MP4 itself does not know.
        trailing_bytes: Bytes behind the last box.
    """

    is_mp4: bool = True
    begins_with_brand: bool = True
    has_uuid_box: bool = False
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
        first = head[4:8]
        position, kinds = 0, set[bytes]()
        while position < size:
            file.seek(position)
            head = file.read(16)
            kind, end = head[4:8], _find_box_end(head, position, size)
            if end is None or (end > size and kind not in _BOXES):
                if b"moov" in kinds:
                    break
                raise InvalidVideo(f"{path.name}: cut short or no readable MP4 from byte {position} on")
            if end > size:
                raise InvalidVideo(f"{path.name}: cut short, {size} of at least {end} bytes are there")
            kinds.add(kind)
            position = end
    return _Layout(begins_with_brand=first == b"ftyp", has_uuid_box=b"uuid" in kinds, trailing_bytes=size - position)


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


def _require_whole(path: Path, layout: _Layout, declared: int, track: Track) -> None:
    """Raise unless every frame is there."""
    if layout.trailing_bytes and (not declared or track.decoded < declared):
        raise InvalidVideo(
            f"{path.name}: cut short, its last {layout.trailing_bytes} bytes are not a whole box and frames are missing"
        )
    frames = track.frames if declared else track.decoded
    if frames < declared:
        # An edit list hides packets from default demuxing; they are in the file nevertheless.
        with open_container(path, ignore_editlist=True) as container:
            stream = find_video_stream(container, path)
            frames = read_track(container, stream, path, decode_all=False).frames
    if frames < max(declared, 1):
        raise InvalidVideo(f"{path.name}: cut short, {frames} of {declared} frames are there")


def open_container(path: Path, *, ignore_editlist: bool = False) -> InputContainer:
    """Open a video file.

    Args:
        path: The file.
        ignore_editlist: Read the packets that its edit list hides too.

    Raises:
        InvalidVideo: It is not a readable video.
        OSError: The file cannot be read.
    """
    import av

    options = {"ignore_editlist": "1"} if ignore_editlist else {}
    try:
        return av.open(str(path), mode="r", metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        # Several of PyAV's errors are OSErrors as well; a file that cannot be opened at all stays one.
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InvalidVideo(f"{path.name}: not a readable video ({describe_error(error)})") from error


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Find the video track of a file, to be decoded in one thread; cover art is none.

    Raises:
        InvalidVideo: There is none, or its codec is not known.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        # Cover art is a video stream too.
        if stream.disposition & Disposition.attached_pic:
            continue
        # Contrary to its type annotation, PyAV gives a track of an unknown codec no context.
        if getattr(stream, "codec_context", None) is None:
            raise InvalidVideo(f"{path.name}: the codec of its video track is not known")
        # The videos of a run are decoded side by side: threads within each cost more than they give.
        stream.codec_context.thread_count = 1
        return stream
    raise InvalidVideo(f"{path.name}: has no video track")


def _make_thumbnail(frame: VideoFrame, path: Path) -> bytes | None:
    """Make a JPEG of a frame; None where there is no picture in it."""
    import av

    degrees = round(frame.rotation) % 360
    displayed_width, _ = _displayed_size(frame)
    scale = min(1.0, _THUMBNAIL_WIDTH / displayed_width)
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    try:
        image = frame.to_image(width=width, height=height, interpolation="AREA")  # type: ignore[no-untyped-call]
    except (av.FFmpegError, ValueError) as error:
        # The video has passed its checks and is paid: a missing thumbnail is no reason to lose it.
        _log.warning("%s: no thumbnail can be made (%s)", path.name, describe_error(error))
        return None
    if degrees:
        image = image.rotate(degrees, expand=True)
    content = BytesIO()
    image.save(content, format="JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()


def _describe_format(container: InputContainer) -> str:
    return _FORMATS.get(container.format.name, f"a file of format {container.format.name}")


def _displayed_size(frame: VideoFrame) -> tuple[int, int]:
    is_sideways = round(frame.rotation) % 180 == 90
    return (frame.height, frame.width) if is_sideways else (frame.width, frame.height)
