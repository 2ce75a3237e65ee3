"""Clips as they are on disk: their measures, and whether they can be joined without encoding."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from prefect_video.errors import FilmError

_HD_LINES = 720


@dataclass(frozen=True)
class ClipMedia:
    """Measures of a clip.

    Attributes:
        path: The file.
        seconds: Length of the picture.
        stored_size: Width and height of the pixels in the file.
        rotation: Degrees that a player turns the picture by, counterclockwise.
        pixel_aspect: Width to height of a pixel.
        fps: Frames per second, on average.
        has_sound: Whether it has an audio track.
        is_hd_untagged: Whether its colours are those of HD although it does not say so.
        key: Everything that must be equal in clips that are joined without encoding.
    """

    path: Path
    seconds: Fraction
    stored_size: tuple[int, int]
    rotation: int
    pixel_aspect: Fraction
    fps: Fraction
    has_sound: bool
    is_hd_untagged: bool
    key: tuple[Any, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as displayed: after rotation, in square pixels, both even."""
        width, height = round(self.stored_size[0] * self.pixel_aspect), self.stored_size[1]
        if self.rotation % 180:
            width, height = height, width
        return width - width % 2, height - height % 2


def open_media(path: Path) -> InputContainer:
    """Open a local file for reading; nothing that it names, or that is named like an address, is fetched.

    Raises:
        av.FFmpegError: It cannot be opened.
    """
    return av.open(f"file:{path}", mode="r", metadata_errors="replace", options={"protocol_whitelist": "file"})


def open_clip(path: Path) -> InputContainer:
    """Open a clip for reading.

    Raises:
        FilmError: It cannot be opened.
    """
    try:
        return open_media(path)
    except av.FFmpegError as error:
        raise FilmError(f"{path.name}: cannot be opened ({error})") from error


def find_picture(container: InputContainer) -> VideoStream:
    """Return the video track of a clip; cover art is one too, and not meant.

    Raises:
        FilmError: There is none.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise FilmError(f"{Path(container.name).name}: has no picture")


def read_clip(path: Path) -> ClipMedia:
    """Measure a clip.

    Raises:
        FilmError: It has no picture, or its length or rate is not known.
    """
    with open_clip(path) as container:
        video = find_picture(container)
        context = video.codec_context
        try:
            first = next(container.decode(video), None)
        except av.FFmpegError as error:
            raise FilmError(f"{path.name}: cannot be decoded ({error})") from error
        fps = video.average_rate or video.guessed_rate
        seconds = _picture_seconds(container, video, fps)
        if first is None or not fps or seconds <= 0:
            raise FilmError(f"{path.name}: its length and frame rate cannot be determined")
        rotation = round(first.rotation) % 360
        audio = container.streams.audio[0] if container.streams.audio else None
        return ClipMedia(
            path=path,
            seconds=seconds,
            stored_size=(context.width, context.height),
            rotation=rotation,
            pixel_aspect=Fraction(video.sample_aspect_ratio or 1) or Fraction(1),
            fps=Fraction(fps),
            has_sound=audio is not None,
            is_hd_untagged=int(first.colorspace) == 2 and min(context.width, context.height) >= _HD_LINES,
            key=(rotation, _video_key(video), None if audio is None else _audio_key(audio)),
        )


def _picture_seconds(container: InputContainer, video: Any, fps: Fraction | None) -> Fraction:
    """Return the length of the picture: the container may last longer, for its sound."""
    if video.duration and video.time_base:
        return Fraction(video.duration * video.time_base)
    if container.duration:
        return Fraction(container.duration, av.time_base)
    return Fraction(video.frames or 0) / fps if fps else Fraction(0)


def codec_name(context: Any) -> str:
    """Return the name of a codec, whichever library decodes it."""
    return str(context.codec.canonical_name)


def _video_key(stream: Any) -> tuple[Any, ...]:
    context = stream.codec_context
    return (
        *(codec_name(context), context.profile, context.width, context.height, context.pix_fmt),
        *(stream.sample_aspect_ratio, stream.average_rate, stream.time_base),
        *(int(context.colorspace), int(context.color_range)),
        bytes(context.extradata or b""),
    )


def _audio_key(stream: Any) -> tuple[Any, ...]:
    context = stream.codec_context
    return (
        *(codec_name(context), context.profile, context.sample_rate, context.layout.name, stream.time_base),
        bytes(context.extradata or b""),
    )
