"""Description of a clip to be rendered, and of the rendered clip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final, NamedTuple

from prefect_video.emulator.generation import FPS

LOOK: Final = 2
"""Version of the picture; goes into every clip's key, so that a new look never serves an old file."""


class ClipSpec(NamedTuple):
    """Everything that decides the bytes of a clip; `duration` in seconds, `width` and `height` in pixels.

    `frames` is the exact number of pictures where that is not `duration * fps`.
    """

    seed: str
    model: str
    prompt: str
    duration: int
    width: int
    height: int
    frames: int | None = None
    fps: int = FPS

    @property
    def key(self) -> str:
        """Hash of the specification; the picture shows its beginning as the clip number."""
        return hashlib.sha256(json.dumps([LOOK, *self]).encode()).hexdigest()[:24]


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
