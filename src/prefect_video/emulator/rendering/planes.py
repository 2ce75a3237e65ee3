"""Planes of a frame, as encoders take them."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image


class Planes(NamedTuple):
    """Planes of a frame: luma at full size, blue and red chroma at half."""

    luma: Image.Image
    blue: Image.Image
    red: Image.Image
