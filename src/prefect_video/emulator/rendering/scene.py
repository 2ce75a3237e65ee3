"""Scene of a clip: sky, sun and drifting ridges from the seed, with text on top.

Everything is drawn directly into the three YUV planes (video range, 4:2:0), without a colour conversion per frame.
"""

from __future__ import annotations

import colorsys
import math
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from prefect_video.emulator.rendering.image_folder import ImageFolder
from prefect_video.emulator.rendering.pictures import blend, load_picture, paste
from prefect_video.emulator.rendering.planes import Planes
from prefect_video.emulator.rendering.spec import ClipSpec
from prefect_video.emulator.rendering.text import TextOverlay

RIDGES = 3
BLEND_SECONDS = 0.5
"""Time in which a first frame becomes the scene, and the scene a last frame."""
REFERENCES_SHOWN = 4


class Colour(NamedTuple):
    """Colour in video range (luma 16 to 235, chroma 16 to 240)."""

    luma: int
    blue: int
    red: int

    @classmethod
    def hls(cls, hue: float, lightness: float, saturation: float) -> Colour:
        """Convert hue, lightness and saturation, each 0 to 1 (hue wraps around), by BT.601."""
        red, green, blue = colorsys.hls_to_rgb(hue % 1.0, lightness, saturation)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        return cls(
            round(16 + 219 * luma),
            round(128 + 224 * (blue - luma) / 1.772),
            round(128 + 224 * (red - luma) / 1.402),
        )


class _Layer(NamedTuple):
    """Shape of one colour that is pasted into each frame, with its mask at full and at half size."""

    colour: Colour
    mask: Image.Image
    half_mask: Image.Image
    top: int
    speed: float


class Scene:
    """Scene of one clip, to be drawn at any of its frames; an image that cannot be decoded is not in it."""

    def __init__(self, spec: ClipSpec, images: ImageFolder | None = None) -> None:
        def load(digest: str | None, size: tuple[int, int]) -> Planes | None:
            if images is None or digest is None:
                return None
            try:
                return load_picture(images.path(digest), size)
            except OSError:
                return None

        self._frames = spec.frame_count
        self._first = load(spec.first_frame, (spec.width, spec.height))
        self._last = load(spec.last_frame, (spec.width, spec.height))
        side = max(32, min(spec.width, spec.height) // 6) & ~1
        self._references = [
            picture for digest in spec.references[:REFERENCES_SHOWN] if (picture := load(digest, (side, side)))
        ]
        self._size = (spec.width, spec.height)
        self._duration_seconds = spec.duration
        rng = Random(f"picture:{spec.seed}")
        hue = rng.random()
        self._sky = _draw_sky(self._size, hue, rng)
        self._sun = _draw_sun(self._size, hue, rng)
        self._sun_start = (rng.uniform(0.15, 0.75), rng.uniform(0.12, 0.3))
        self._ridges = [_draw_ridge(self._size, hue, depth, rng) for depth in range(RIDGES)]
        self._text = TextOverlay(spec)

    def draw(self, index: int, fps: int) -> Planes:
        """Draw frame `index`: the scene, which begins and ends with the request's frames."""
        to_end = self._frames - 1 - index
        if self._first and index == 0:
            return self._first
        if self._last and to_end == 0:
            return self._last
        planes = self._draw_scene(index, fps)
        span = BLEND_SECONDS * fps
        if self._first and index < span:
            planes = blend(self._first, planes, index / span)
        if self._last and to_end < span:
            planes = blend(self._last, planes, to_end / span)
        return planes

    def _draw_scene(self, index: int, fps: int) -> Planes:
        seconds = index / fps
        planes = Planes(*(plane.copy() for plane in self._sky))
        self._place_sun(planes, seconds)
        for ridge in self._ridges:
            _place_ridge(planes, ridge, self._size[0], seconds)
        self._text.draw(*planes, seconds=seconds, frame=index % fps, share=seconds / self._duration_seconds)
        self._place_references(planes)
        return planes

    def _place_references(self, planes: Planes) -> None:
        """Paste the references in a row at the left, above the prompt."""
        for number, picture in enumerate(self._references):
            side = picture.luma.width
            x, y = (side // 4 + number * (side + side // 4)) & ~1, (self._size[1] // 4) & ~1
            if x + side <= self._size[0]:
                paste(planes, picture, x, y)

    def _place_sun(self, planes: Planes, seconds: float) -> None:
        width, height = self._size
        x = self._sun_start[0] * width + math.sin(seconds * 0.5) * width * 0.08
        y = self._sun_start[1] * height + math.cos(seconds * 0.4) * height * 0.04
        _paste(planes, self._sun, int(x) & ~1, int(y) & ~1)


def _paste(planes: Planes, layer: _Layer, x: int, y: int) -> None:
    """Paste a layer at even coordinates."""
    # Odd ones would shift the chroma, which has half the resolution, against the luma.
    planes.luma.paste(layer.colour.luma, (x, y), layer.mask)
    planes.blue.paste(layer.colour.blue, (x // 2, y // 2), layer.half_mask)
    planes.red.paste(layer.colour.red, (x // 2, y // 2), layer.half_mask)


def _place_ridge(planes: Planes, ridge: _Layer, width: int, seconds: float) -> None:
    """Paste a ridge, shifted to the left with time; it repeats after its own width."""
    offset = int(seconds * ridge.speed * width) % ridge.mask.width & ~1
    for x in (-offset, ridge.mask.width - offset):
        if x < width:
            _paste(planes, ridge, x, ridge.top)


def _draw_sky(size: tuple[int, int], hue: float, rng: Random) -> Planes:
    """Draw a soft gradient between a few related colours."""
    width, height = size
    grid_width, grid_height = 5, 4
    grids = [Image.new("L", (grid_width, grid_height)) for _ in range(3)]
    for row in range(grid_height):
        for column in range(grid_width):
            warmth = row / (grid_height - 1)
            colour = Colour.hls(
                hue + 0.14 * warmth + rng.uniform(-0.05, 0.05),
                0.34 + 0.36 * warmth + rng.uniform(-0.05, 0.05),
                0.55,
            )
            for grid, value in zip(grids, colour, strict=True):
                grid.putpixel((column, row), value)
    smooth = Image.Resampling.BICUBIC
    half = (width // 2, height // 2)
    return Planes(grids[0].resize(size, smooth), grids[1].resize(half, smooth), grids[2].resize(half, smooth))


def _draw_sun(size: tuple[int, int], hue: float, rng: Random) -> _Layer:
    radius = round(min(size) * rng.uniform(0.09, 0.13))
    side = radius * 4 & ~1
    glow = Image.new("L", (side, side), 0)
    middle = side // 2
    ImageDraw.Draw(glow).ellipse((middle - radius, middle - radius, middle + radius, middle + radius), fill=235)
    glow = glow.filter(ImageFilter.GaussianBlur(radius * 0.18))
    return _Layer(Colour.hls(hue + 0.12, 0.9, 0.7), glow, glow.resize((side // 2, side // 2)), 0, 0.0)


def _draw_ridge(size: tuple[int, int], hue: float, depth: int, rng: Random) -> _Layer:
    """Draw a mountain line; the nearer (larger `depth`), the darker, lower and faster."""
    width, height = size
    period = width + width // 2 & ~1
    top = round(height * (0.36 + 0.14 * depth)) & ~1
    waves = [(number, rng.uniform(0.3, 1.0) / number, rng.uniform(0, math.tau)) for number in (1, 2, 3, 5, 8, 13)]
    amplitude = sum(strength for _, strength, _ in waves)
    max_height = height * (0.2 - 0.03 * depth)
    outline: list[tuple[float, float]] = []
    for x in range(0, period + 4, 4):
        angle = math.tau * x / period
        lift = sum(strength * math.sin(number * angle + phase) for number, strength, phase in waves)
        outline.append((x, max_height * (0.5 - 0.5 * lift / amplitude)))
    mask = Image.new("L", (period, (height - top) & ~1), 0)
    ImageDraw.Draw(mask).polygon([*outline, (period, height), (0, height)], fill=255)
    colour = Colour.hls(hue + 0.03 * depth, 0.36 - 0.11 * depth, 0.45 - 0.05 * depth)
    return _Layer(colour, mask, mask.resize((mask.width // 2, mask.height // 2)), top, 0.03 * 2**depth)
