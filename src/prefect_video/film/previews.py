"""Previews of a film: a still, a contact sheet of its clips, and a small animation, taken while it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

from av import VideoFrame
from PIL import Image

from prefect_video.film.arrangement import Arrangement
from prefect_video.film.cut import CutClip
from prefect_video.film.titles import Typeface, draw_label

_THUMBNAIL_SIDE: Final = 480
_TILE_SIDE: Final = 320
_ANIMATION_SIDE: Final = 320
_ANIMATION_FPS: Final = 8
_ANIMATION_FRAMES: Final = 48
_SHEET_LIMIT: Final = 100
"""Most clips of a contact sheet; of a longer film as many, evenly spaced."""
_PAPER: Final = "#16181c"


@dataclass(frozen=True)
class Previews:
    """Pictures of a film.

    Attributes:
        thumbnail: JPEG of the middle of its first clip.
        sheet: JPEG with one picture of every clip, with the shots' ids.
        animation: The film in at most six seconds, as animated WebP or GIF.
    """

    thumbnail: bytes = field(repr=False)
    sheet: bytes = field(repr=False)
    animation: bytes = field(repr=False)

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write thumbnail, sheet and animation into a folder; return their paths."""
        files = (folder / "thumbnail.jpg", folder / "sheet.jpg", folder / "animation")
        for path, content in zip(files, (self.thumbnail, self.sheet, self.animation), strict=True):
            path.write_bytes(content)
        return files


class PreviewCollector:
    """Collector of the frames that the previews of a film need; only small pictures are kept.

    Args:
        film: The film.
    """

    def __init__(self, film: Arrangement) -> None:
        clips = film.clips
        picked = [
            clips[number * len(clips) // min(len(clips), _SHEET_LIMIT)]
            for number in range(min(len(clips), _SHEET_LIMIT))
        ]
        self._middles = [(part.begin + part.count // 2, _label(part.content)) for part in picked]
        count = max(1, min(_ANIMATION_FRAMES, int(film.seconds * _ANIMATION_FPS)))
        self._animated = {film.frames * number // count for number in range(count)}
        self._tiles: dict[int, Image.Image] = {}
        self._moving: list[Image.Image] = []
        self._thumbnail: Image.Image | None = None

    def add(self, number: int, frame: VideoFrame) -> None:
        """Look at a frame of the film."""
        middle = number in {at for at, _ in self._middles}
        if not middle and number not in self._animated:
            return
        image = _to_image(frame)
        if number == self._middles[0][0]:
            self._thumbnail = _shrink(image, _THUMBNAIL_SIDE)
        if middle:
            self._tiles[number] = _shrink(image, _TILE_SIDE)
        if number in self._animated:
            self._moving.append(_shrink(image, _ANIMATION_SIDE))

    def finish(self, kind: Literal["webp", "gif"]) -> Previews:
        """Return the previews."""
        still = self._thumbnail or self._moving[0]
        return Previews(_to_jpeg(still), _to_jpeg(self._draw_sheet()), _animate(self._moving, kind))

    def _draw_sheet(self) -> Image.Image:
        tiles = [(self._tiles[at], label) for at, label in self._middles if at in self._tiles]
        width, height = tiles[0][0].size if tiles else (_TILE_SIDE, _TILE_SIDE)
        columns = max(1, min(len(tiles), 4 if width >= height else 6))
        rows = -(-len(tiles) // columns)
        gap, line = 14, 26
        sheet = Image.new("RGB", (gap + columns * (width + gap), gap + max(1, rows) * (height + line + gap)), _PAPER)
        for number, (tile, label) in enumerate(tiles):
            left = gap + number % columns * (width + gap)
            top = gap + number // columns * (height + line + gap)
            sheet.paste(tile, (left, top))
            draw_label(sheet, label, (left, top + height, left + width, top + height + line), typeface=Typeface())
        return sheet


def _label(content: object) -> str:
    return content.label if isinstance(content, CutClip) else ""


def _to_image(frame: VideoFrame) -> Image.Image:
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    degrees = round(frame.rotation) % 360
    return image.rotate(degrees, expand=True) if degrees else image


def _shrink(image: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side has at most so many pixels."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _to_jpeg(image: Image.Image) -> bytes:
    content = BytesIO()
    image.save(content, format="JPEG", quality=86, progressive=True)
    return content.getvalue()


def _animate(images: list[Image.Image], kind: Literal["webp", "gif"]) -> bytes:
    content, milliseconds = BytesIO(), 1000 // _ANIMATION_FPS
    first, *rest = images
    if kind == "webp":
        # Method 6 would take a hundred times as long for a twentieth less.
        first.save(
            content, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, quality=60, method=2
        )
    else:
        palette = first.quantize(96)
        paletted = [image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for image in (first, *rest)]
        paletted[0].save(content, "GIF", save_all=True, append_images=paletted[1:], duration=milliseconds, loop=0)
    return content.getvalue()
