"""Description of a clip to be rendered, and of the rendered clip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final, NamedTuple

from prefect_video.emulator.generation import FPS

PICTURE_VERSION: Final = 2
"""Version of the picture, part of every clip's key: after a change of the drawing no old file is served."""


class ClipSpec(NamedTuple):
    """Specification that decides every byte of a clip.

    Attributes:
        seed: Seed of the scenery.
        model: Model name, shown in the picture.
        prompt: Prompt, shown in the picture.
        duration: Seconds.
        width: Pixels.
        height: Pixels.
        frames: Exact number of frames where that is not `duration * fps`.
        fps: Frames per second.
        first_frame: Digest of the image that it begins with.
        last_frame: Digest of the image that it ends with.
        references: Digests of the images that are shown small.
        audio: True for a sound track.
        watermark: False for a picture without the emulator's mark.
        remix_of: Id of the generation whose remix it is, shown in the picture.
    """

    seed: str
    model: str
    prompt: str
    duration: int
    width: int
    height: int
    frames: int | None = None
    fps: int = FPS
    first_frame: str | None = None
    last_frame: str | None = None
    references: tuple[str, ...] = ()
    audio: bool = False
    watermark: bool = True
    remix_of: str | None = None

    @property
    def frame_count(self) -> int:
        """Return the number of frames."""
        return self.frames or self.duration * self.fps

    @property
    def key(self) -> str:
        """Return the hash of the specification; the picture shows its beginning as the clip number."""
        # A clip that is no remix keeps the number that it had before there were any.
        values = self if self.remix_of is not None else self[:-1]
        return hashlib.sha256(json.dumps([PICTURE_VERSION, *values]).encode()).hexdigest()[:24]


class Clip(NamedTuple):
    """Rendered clip.

    Attributes:
        video: The MP4 file.
        thumbnail: The JPEG file.
        size: Bytes of the MP4.
        etag: Quoted SHA-256 of the MP4.
    """

    video: Path
    thumbnail: Path
    size: int
    etag: str
