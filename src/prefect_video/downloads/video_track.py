"""The track of a video file, read once: how many frames it has, how long they last, and the one for the picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prefect_video._counted import counted
from prefect_video.errors import InvalidVideo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_WAITING_LIMIT_BYTES: Final = 32 * 2**20
"""Size of the packets after a key frame above which the first frame is picture enough."""


@dataclass(frozen=True)
class Track:
    """Content of a video track.

    Attributes:
        first: The first frame.
        picture: The frame at the point that was looked for, or the last one before it that can be decoded.
        frames: Number of frames, by packets.
        decoded: Number of frames that were decoded to count them.
        seconds: From the beginning of the earliest to the end of the last.
    """

    first: VideoFrame
    picture: VideoFrame
    frames: int
    decoded: int
    seconds: float


def read_track(
    container: InputContainer, stream: VideoStream, path: Path, *, decode_all: bool, picture_at: float | None = None
) -> Track:
    """Read a track to its end: count the frames by packets, and decode all or only those that the picture needs.

    Args:
        container: The file.
        stream: Its track.
        path: Its path, for messages.
        decode_all: Decode every frame.
        picture_at: Share of the length at which the picture is looked for; None takes the first frame.

    Raises:
        InvalidVideo: A frame that has to be decoded cannot be, or there is none.
    """
    import av

    first: VideoFrame | None = None
    frames = decoded = 0
    span = _Span(stream)
    search = _PictureSearch(stream, _find_time(container, stream, picture_at))
    try:
        for packet in container.demux(stream):
            if packet.size:
                frames += 1
                span.add(packet)
            if first is not None and not decode_all:
                search.add(packet)
                continue
            for frame in packet.decode():
                first = first or frame
                decoded += 1
                span.add(frame)
                search.compare(frame)
    except (av.FFmpegError, ValueError, AttributeError) as error:
        cause = f"damaged after {counted(frames, 'frame')}" if first else "no frame can be decoded"
        raise InvalidVideo(f"{path.name}: {cause} ({describe_error(error)})") from error
    if first is None:
        raise InvalidVideo(f"{path.name}: no frame can be decoded")
    return Track(first, search.frame or first, frames, decoded, span.seconds)


def read_duration(container: InputContainer, stream: VideoStream) -> float:
    """Return the length in seconds that a file states for its track, or for itself; 0 where it states none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else 0.0


def describe_error(error: BaseException) -> str:
    """Describe an error of FFmpeg or of the disk in its own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _find_time(container: InputContainer, stream: VideoStream, share: float | None) -> float | None:
    """Return the time of a share of the length; None where there is nothing to look for."""
    seconds = read_duration(container, stream)
    if share is None or not seconds or not stream.time_base:
        return None
    return float((stream.start_time or 0) * stream.time_base) + seconds * share


class _PictureSearch:
    """Search for the frame at a time, on the way through the packets of a track.

    Decoding costs far more than reading: it begins at the last key frame before the time, and leaves out the frames
    that no other one needs.

    Args:
        stream: The track.
        time: Seconds; None looks for nothing.
    """

    def __init__(self, stream: VideoStream, time: float | None) -> None:
        self.frame: VideoFrame | None = None
        self._context = stream.codec_context
        self._base = float(stream.time_base or 0)
        self._time = time
        self._is_over = time is None
        self._waiting: list[Packet[VideoStream]] = []
        self._waiting_bytes = 0
        self._has_begun = False

    def compare(self, frame: VideoFrame) -> None:
        """Take a decoded frame, unless that at the time was found before it."""
        if not self._is_over:
            self.frame = frame
            self._is_over = frame.time is None or self._time is None or frame.time >= self._time

    def add(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet that nothing else decodes; the last one is empty."""
        if self._is_over:
            return
        if packet.is_keyframe and not self._has_begun:
            self._waiting, self._waiting_bytes = [], 0
        self._waiting.append(packet)
        self._waiting_bytes += packet.size
        if self._waiting_bytes > _WAITING_LIMIT_BYTES:
            self._waiting, self._is_over = [], True
        elif not packet.size or self._has_reached(packet):
            self._decode()

    def _has_reached(self, packet: Packet[VideoStream]) -> bool:
        return packet.pts is not None and self._time is not None and packet.pts * self._base >= self._time

    def _decode(self) -> None:
        import av

        if not self._has_begun:
            self._has_begun = True
            if self._waiting[0].is_keyframe:
                # What follows the first frame was left out.
                self._context.flush_buffers()
            self._context.skip_frame = "NONREF"
        packets, self._waiting, self._waiting_bytes = self._waiting, [], 0
        try:
            for packet in packets:
                for frame in packet.decode():
                    self.compare(frame)
        except (av.FFmpegError, ValueError, AttributeError):
            # A picture is not worth a video that is whole by its packets: what was found so far is taken.
            self._is_over = True


class _Span:
    """Time from the beginning of the earliest to the end of the last of some packets and frames."""

    def __init__(self, stream: VideoStream) -> None:
        self._base = float(stream.time_base or 0)
        self._frame_seconds = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._begin, self._end = float("inf"), 0.0

    def add(self, unit: Packet[VideoStream] | VideoFrame) -> None:
        """Extend the span by a packet or a frame; one without a time leaves it as it is."""
        if unit.pts is not None:
            begin = unit.pts * self._base
            seconds = unit.duration * self._base if unit.duration else self._frame_seconds
            self._begin = min(self._begin, begin)
            self._end = max(self._end, begin + seconds)

    @property
    def seconds(self) -> float:
        """Length of the span."""
        return max(0.0, self._end - self._begin)
