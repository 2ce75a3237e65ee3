"""Images that requests bring: first and last frames and references, kept as files by their digest."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefect_video.emulator.errors import ApiError


class ImageFolder:
    """Folder of images, each named by the SHA-256 of its content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, content: bytes) -> str:
        """Keep an image and return its digest."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{digest}.{os.getpid()}.{threading.get_ident()}.part")
            part.write_bytes(content)
            part.replace(path)
        return digest

    def keep_encoded(self, value: Any, *, field: str) -> str | None:
        """Keep an image that comes as a `data:` URL or as base64; None for any other URL: the emulator fetches none.

        Raises:
            ApiError: It is no text.
        """
        if not isinstance(value, str):
            raise ApiError("invalid", f"{field}: expected an image as a URL", status=422)
        encoded = value.partition(",")[2] if value.startswith("data:") else value
        try:
            return self.keep(base64.b64decode(encoded, validate=True))
        except ValueError:
            return None

    def keep_all(self, images: Mapping[str, Iterable[Any]]) -> dict[str, tuple[str, ...]]:
        """Keep the images of a request and return their digests, by the field of a shot that they are for.

        Args:
            images: The images by field, each as a `data:` URL, base64 or a URL; None for one that is not given.

        Raises:
            ApiError: One is no text.
        """
        kept = {
            field: tuple(
                digest
                for value in values
                if value is not None and (digest := self.keep_encoded(value, field=field)) is not None
            )
            for field, values in images.items()
        }
        return {field: digests for field, digests in kept.items() if digests}

    def ratio(self, digest: str) -> str | None:
        """Return the aspect ratio of an image, such as `3:2`; None where it is none that can be read."""
        # Imported late: Pillow would make the import of the package slow.
        from PIL import Image

        try:
            with Image.open(self.path(digest)) as image:
                shape = Fraction(*image.size).limit_denominator(99)
        except OSError:
            return None
        return f"{shape.numerator}:{shape.denominator}"

    def path(self, digest: str) -> Path:
        """Return the file of an image."""
        return self._folder / digest
