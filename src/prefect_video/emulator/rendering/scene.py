"""Draws one moving picture: sky, sun and drifting ridges from the seed, with the lettering on top.

Everything is drawn straight into the three YUV planes (video range, 4:2:0): no colour conversion per frame.
"""

from __future__ import annotations

import colorsys
import math
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from prefect_video.emulator.rendering.spec import ClipSpec
from prefect_video.emulator.rendering.text import TextOverlay

RIDGES = 3


class Planes(NamedTuple):
    """Luma at full size, the two chroma planes at half."""

    luma: Image.Image
    blue: Image.Image
    red: Image.Image


class Colour(NamedTuple):
    """A colour in video range."""

    luma: int
    blue: int
    red: int

    @classmethod
    def hls(cls, hue: float, lightness: float, saturation: float) -> Colour:
        """From hue, lightness and saturation, each 0 to 1 (hue wraps), by BT.601."""
        red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        return cls(
            round(16 + 219 * luma),
            round(128 + 224 * (blue - luma) / 1.772),
            round(128 + 224 * (red - luma) / 1.402),
        )


class _Layer(NamedTuple):
    """A shape of one colour that is pasted somewhere in each frame: its mask at full and at half size."""

    colour: Colour
    mask: Image.Image
    half_mask: Image.Image
    top: int
    speed: float


class Scene:
    """The picture of one clip at any of its frames."""

    def __init__(self, spec: ClipSpec) -> None:
        self._size = (spec.width, spec.height)
        self._frames_shown = spec.duration
        chance = Random(f"picture:{spec.seed}")
        hue = chance.random()
        self._sky = _sky(self._size, hue, chance)
        self._sun = _sun(self._size, hue, chance)
        self._sun_start = (chance.uniform(0.15, 0.75), chance.uniform(0.12, 0.3))
        self._ridges = [_ridge(self._size, hue, depth, chance) for depth in range(RIDGES)]
        self._lettering = TextOverlay(spec)

    def draw(self, index: int, fps: int) -> Planes:
        """The planes of frame ``index``."""
        seconds = index / fps
        planes = Planes(*(plane.copy() for plane in self._sky))
        self._place_sun(planes, seconds)
        for ridge in self._ridges:
            _place_ridge(planes, ridge, self._size[0], seconds)
        self._lettering.draw(*planes, seconds=seconds, frame=index % fps, share=seconds / self._frames_shown)
        return planes

    def _place_sun(self, planes: Planes, seconds: float) -> None:
        width, height = self._size
        x = self._sun_start[0] * width + math.sin(seconds * 0.5) * width * 0.08
        y = self._sun_start[1] * height + math.cos(seconds * 0.4) * height * 0.04
        _paste(planes, self._sun, int(x) & ~1, int(y) & ~1)


def _paste(planes: Planes, layer: _Layer, x: int, y: int) -> None:
    """Lay a layer on, at even coordinates."""
    planes.luma.paste(layer.colour.luma, (x, y), layer.mask)
    planes.blue.paste(layer.colour.blue, (x // 2, y // 2), layer.half_mask)
    planes.red.paste(layer.colour.red, (x // 2, y // 2), layer.half_mask)


def _place_ridge(planes: Planes, ridge: _Layer, width: int, seconds: float) -> None:
    """Slide a ridge, which repeats after its own width, to the left."""
    offset = int(seconds * ridge.speed * width) % ridge.mask.width & ~1
    for x in (-offset, ridge.mask.width - offset):
        if x < width:
            _paste(planes, ridge, x, ridge.top)


def _sky(size: tuple[int, int], hue: float, chance: Random) -> Planes:
    """A soft gradient between a few colours of one family."""
    width, height = size
    grid_width, grid_height = 5, 4
    grids = [Image.new("L", (grid_width, grid_height)) for _ in range(3)]
    for row in range(grid_height):
        for column in range(grid_width):
            warmth = row / (grid_height - 1)
            colour = Colour.hls(
                hue + 0.14 * warmth + chance.uniform(-0.05, 0.05),
                0.34 + 0.36 * warmth + chance.uniform(-0.05, 0.05),
                0.55,
            )
            for grid, value in zip(grids, colour, strict=True):
                grid.putpixel((column, row), value)
    smooth = Image.Resampling.BICUBIC
    half = (width // 2, height // 2)
    return Planes(grids[0].resize(size, smooth), grids[1].resize(half, smooth), grids[2].resize(half, smooth))


def _sun(size: tuple[int, int], hue: float, chance: Random) -> _Layer:
    radius = round(min(size) * chance.uniform(0.09, 0.13))
    side = radius * 4 & ~1
    glow = Image.new("L", (side, side), 0)
    middle = side // 2
    ImageDraw.Draw(glow).ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=235)
    glow = glow.filter(ImageFilter.GaussianBlur(radius * 0.18))
    return _Layer(Colour.hls(hue + 0.12, 0.9, 0.7), glow, glow.resize((side // 2, side // 2)), 0, 0.0)


def _ridge(size: tuple[int, int], hue: float, depth: int, chance: Random) -> _Layer:
    """A mountain line; the nearer (larger ``depth``), the darker, lower and faster."""
    width, height = size
    period = width + width // 2 & ~1
    top = round(height * (0.36 + 0.14 * depth)) & ~1
    waves = [(number, chance.uniform(0.3, 1.0) / number, chance.uniform(0, math.tau)) for number in (1, 2, 3, 5, 8, 13)]
    reach = sum(strength for _, strength, _ in waves)
    room = height * (0.2 - 0.03 * depth)
    outline: list[tuple[float, float]] = []
    for x in range(0, period + 4, 4):
        angle = math.tau * x / period
        lift = sum(strength * math.sin(number * angle + phase) for number, strength, phase in waves)
        outline.append((x, room * (0.5 - 0.5 * lift / reach)))
    mask = Image.new("L", (period, (height - top) & ~1), 0)
    ImageDraw.Draw(mask).polygon([*outline, (period, height), (0, height)], fill=255)
    colour = Colour.hls(hue + 0.03 * depth, 0.36 - 0.11 * depth, 0.45 - 0.05 * depth)
    return _Layer(colour, mask, mask.resize((mask.width // 2, mask.height // 2)), top, 0.03 * 2**depth)
