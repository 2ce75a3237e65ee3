"""Encoder of clips: the frames of a scene as a faststart H.264 MP4, and one of them as a JPEG."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from PIL import Image

from prefect_video.emulator.rendering.image_folder import ImageFolder
from prefect_video.emulator.rendering.planes import Planes
from prefect_video.emulator.rendering.scene import Scene
from prefect_video.emulator.rendering.spec import ClipSpec
from prefect_video.emulator.rendering.tone import RATE, make_tone

THUMBNAIL_WIDTH = 480
_SMPTE170M = 6  # BT.601, which Pillow's YCbCr is
_ENCODER = {"preset": "ultrafast", "crf": "23", "threads": "1", "g": "48"}  # one thread: deterministic bytes
_FAITHFUL_CRF = "10"
"""Quality of clips that begin or end with an image, which must be recognisable as that very image."""


class RenderStopped(Exception):
    """Rendering was abandoned because the emulator is closing."""


def render_clip(
    spec: ClipSpec,
    video: Path,
    thumbnail: Path,
    *,
    images: ImageFolder | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the MP4 and the JPEG of a specification; equal specifications give equal bytes.

    Each file appears whole or not at all, the MP4 last: its presence means that both are there.

    Args:
        spec: The specification.
        video: The MP4 to write.
        thumbnail: The JPEG to write.
        images: The images that the specification names; None where it names none.
        should_stop: Asked before each frame.

    Raises:
        RenderStopped: `should_stop` returned True before a frame.
    """
    scene = Scene(spec, images)
    part = _partial_path(video)
    try:
        _encode(scene, spec, part, should_stop)
        _save_thumbnail(scene.draw(spec.frame_count // 3, spec.fps), thumbnail)
        part.replace(video)
    finally:
        part.unlink(missing_ok=True)


def _encode(scene: Scene, spec: ClipSpec, path: Path, should_stop: Callable[[], bool]) -> None:
    options = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no time stamps, so equal bytes
    with av.open(str(path), "w", format="mp4", options=options) as container:
        is_faithful = spec.first_frame is not None or spec.last_frame is not None
        encoder = {**_ENCODER, **({"crf": _FAITHFUL_CRF} if is_faithful else {})}
        stream = container.add_stream("libx264", rate=spec.fps, options=encoder)
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        sound = _Sound(container, spec) if spec.audio else None
        for index in range(spec.frame_count):
            if should_stop():
                raise RenderStopped(f"clip {spec.key} was abandoned at frame {index}; start the emulator again")
            frame = _to_frame(scene.draw(index, spec.fps), spec.width, spec.height)
            frame.pts, frame.time_base = index, Fraction(1, spec.fps)
            container.mux(stream.encode(frame))
            if sound is not None:
                sound.write_until((index + 1) / spec.fps)
        container.mux(stream.encode(None))
        if sound is not None:
            sound.close()


class _Sound:
    """Sound track of a clip, written beside its pictures."""

    def __init__(self, container: OutputContainer, spec: ClipSpec) -> None:
        self._container = container
        self._stream = container.add_stream("aac", rate=RATE, layout="mono", bit_rate=96_000)
        self._frames = make_tone(spec.seed, spec.frame_count / spec.fps)
        self._seconds = 0.0

    def write_until(self, seconds: float) -> None:
        """Encode what belongs to the pictures before this time."""
        while self._seconds < seconds and (frame := next(self._frames, None)) is not None:
            self._seconds += frame.samples / RATE
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Encode the rest."""
        self.write_until(float("inf"))
        self._container.mux(self._stream.encode(None))


def _to_frame(planes: Planes, width: int, height: int) -> VideoFrame:
    frame = VideoFrame(width, height, "yuv420p")
    for plane, image in zip(frame.planes, planes, strict=True):
        plane.update(_pad_lines(image, plane))
    return frame


def _pad_lines(image: Image.Image, plane: VideoPlane) -> bytes:
    """Return the bytes of a plane, each line padded to the line size of the encoder's buffer."""
    if plane.line_size == image.width:
        return image.tobytes()
    return image.crop((0, 0, plane.line_size, image.height)).tobytes()


def _save_thumbnail(planes: Planes, path: Path) -> None:
    luma, blue, red = planes
    size = (THUMBNAIL_WIDTH, max(1, round(luma.height * THUMBNAIL_WIDTH / luma.width)))
    picture = Image.merge(
        "YCbCr",
        (
            luma.resize(size, Image.Resampling.LANCZOS).point([_full_range(v, 219) for v in range(256)]),
            blue.resize(size, Image.Resampling.BILINEAR).point([_full_chroma(v) for v in range(256)]),
            red.resize(size, Image.Resampling.BILINEAR).point([_full_chroma(v) for v in range(256)]),
        ),
    )
    part = _partial_path(path)
    picture.convert("RGB").save(part, "JPEG", quality=85)
    part.replace(path)


def _partial_path(path: Path) -> Path:
    """Return the path of a partial file, private to this thread: other emulators may render the same clip."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")


def _full_range(value: int, span: int) -> int:
    return min(255, max(0, round((value - 16) * 255 / span)))


def _full_chroma(value: int) -> int:
    return min(255, max(0, round((value - 128) * 255 / 224 + 128)))
