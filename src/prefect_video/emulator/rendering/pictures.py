"""Pictures of a clip: images that a request brought, scaled to the frame, as planes in video range."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from prefect_video.emulator.rendering.planes import Planes

_LUMA = [round(16 + value * 219 / 255) for value in range(256)]
_CHROMA = [round(128 + (value - 128) * 224 / 255) for value in range(256)]


def load_picture(path: Path, size: tuple[int, int]) -> Planes:
    """Read an image, scaled and cropped to a size whose sides are even.

    Raises:
        OSError: It is no image that can be decoded.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    luma, blue, red = ImageOps.fit(upright, size, Image.Resampling.LANCZOS).convert("YCbCr").split()
    half = (size[0] // 2, size[1] // 2)
    return Planes(
        luma.point(_LUMA),
        blue.resize(half, Image.Resampling.BOX).point(_CHROMA),
        red.resize(half, Image.Resampling.BOX).point(_CHROMA),
    )


def blend(planes: Planes, other: Planes, share: float) -> Planes:
    """Mix two pictures of one size; `share` is that of the other one, 0 to 1."""
    return Planes(*(Image.blend(plane, wanted, share) for plane, wanted in zip(planes, other, strict=True)))


def paste(planes: Planes, small: Planes, x: int, y: int) -> None:
    """Paste a small picture into another one at even coordinates."""
    planes.luma.paste(small.luma, (x, y))
    planes.blue.paste(small.blue, (x // 2, y // 2))
    planes.red.paste(small.red, (x // 2, y // 2))
