"""Text of a film, set by Pillow: cards, captions and the labels of the contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageColor, ImageDraw, ImageFont

from prefect_video.film.cut import Card

FONTS: Final = Path(__file__).parent / "fonts"
REGULAR: Final = FONTS / "SourceSansPro-Regular.ttf"
SEMIBOLD: Final = FONTS / "SourceSansPro-Semibold.ttf"

_ABSENT: Final = chr(0x10FFFE)
"""Character that no font has, for the picture that stands for an absent one."""
_WIDEST_SHARE: Final = 0.8
"""Share of the picture's width that text may take."""
_TITLE_SHARE: Final = 0.11
_SMALLEST_TITLE_SHARE: Final = 0.035
_SUBTITLE_SHARE: Final = 0.46
"""Size of a subtitle, as a share of the title's."""
_CAPTION_SHARE: Final = 0.058
_LEADING: Final = 1.18

Size = tuple[int, int]


@dataclass(frozen=True)
class Typeface:
    """Font files of a film.

    Attributes:
        regular: For subtitles, captions and labels.
        strong: For titles.
    """

    regular: Path = REGULAR
    strong: Path = SEMIBOLD

    @classmethod
    def of(cls, font: str | None) -> Typeface:
        """Return the typeface of a cut's `font`; None stands for the bundled one."""
        return cls() if font is None else cls(Path(font), Path(font))


@dataclass(frozen=True)
class Overlay:
    """Picture with transparency, and where in the frame it belongs.

    Attributes:
        image: The picture, RGBA.
        left: Pixels from the left edge; even.
        top: Pixels from the upper edge; even.
    """

    image: Image.Image
    left: int
    top: int


def find_absent_characters(font: Path, text: str) -> str:
    """Return the characters of a text that a font has no glyph for, each once.

    Raises:
        OSError: The file is no font.
    """
    face = _load(font, 32)
    absent = bytes(face.getmask(_ABSENT))
    characters = dict.fromkeys(character for character in text if not character.isspace())
    return "".join(character for character in characters if bytes(face.getmask(character)) == absent)


def draw_card(card: Card, size: Size, typeface: Typeface) -> Image.Image:
    """Draw a card: the title in the optical centre, below it a short rule and the subtitle."""
    width, height = size
    image = Image.new("RGB", size, card.background)
    draw = ImageDraw.Draw(image)
    faded = _mix(card.background, card.color, 0.72)
    block = _set_card(card, size, typeface)
    # The optical centre lies a little above the middle.
    top = round((height - block.height) * 0.47)
    top = _draw_lines(draw, block.title, block.title_font, width, top, card.color)
    if block.subtitle:
        top += block.gap
        rule = max(24, width // 14)
        thickness = max(2, height // 360)
        left = (width - rule) // 2
        draw.rectangle((left, top, left + rule, top + thickness - 1), fill=_mix(card.background, card.color, 0.4))
        _draw_lines(draw, block.subtitle, block.subtitle_font, width, top + thickness + block.gap, faded)
    return image


def draw_caption(text: str, size: Size, typeface: Typeface) -> Overlay:
    """Draw a caption on a dark plate, for the lower edge of a frame."""
    width, height = size
    points = max(14, round(min(size) * _CAPTION_SHARE))
    font = _load(typeface.regular, points)
    lines = _wrap(text, font, width * _WIDEST_SHARE, balance=True)
    step = round(points * _LEADING)
    across, around = round(points * 0.55), round(points * 0.32)
    plate = (
        _even(max(round(font.getlength(line)) for line in lines) + 2 * across),
        _even(step * len(lines) + 2 * around),
    )
    # Drawn at four times the size, so that the corners of the plate are smooth.
    mask = Image.new("L", (plate[0] * 4, plate[1] * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, plate[0] * 4 - 1, plate[1] * 4 - 1), radius=points * 1.2, fill=205)
    image = Image.new("RGBA", plate, (10, 12, 16, 0))
    image.putalpha(mask.resize(plate, Image.Resampling.LANCZOS))
    text_layer = Image.new("RGBA", plate, (255, 255, 255, 0))
    _draw_lines(ImageDraw.Draw(text_layer), lines, font, plate[0], around, "#ffffff")
    image.alpha_composite(text_layer)
    margin = round(height * (0.07 if width >= height else 0.13))
    return Overlay(image, _even((width - plate[0]) // 2), _even(max(0, height - margin - plate[1])))


def draw_label(image: Image.Image, text: str, box: tuple[int, int, int, int], *, typeface: Typeface) -> None:
    """Write one line of text into a box of a picture, cut where it is too long."""
    left, top, right, bottom = box
    font = _load(typeface.regular, max(8, round((bottom - top) * 0.62)))
    while len(text) > 1 and font.getlength(text) > right - left:
        text = f"{text.rstrip('…')[:-1]}…"
    ImageDraw.Draw(image).text((left, (top + bottom) / 2), text, font=font, fill="#d8dade", anchor="lm")


@dataclass(frozen=True)
class _Block:
    """Text of a card, broken into lines at the largest size that fits."""

    title: list[str]
    title_font: ImageFont.FreeTypeFont
    subtitle: list[str]
    subtitle_font: ImageFont.FreeTypeFont
    gap: int
    height: int


def _set_card(card: Card, size: Size, typeface: Typeface) -> _Block:
    """Break the text of a card into lines, at the largest size at which it fits into the picture."""
    width, height = size
    points, smallest = round(min(size) * _TITLE_SHARE), round(min(size) * _SMALLEST_TITLE_SHARE)
    while True:
        block = _set_card_at(card, width, points, typeface)
        widest = max(block.title_font.getlength(line) for line in block.title)
        fits = widest <= width * _WIDEST_SHARE and block.height <= height * _WIDEST_SHARE and len(block.title) <= 4
        if fits or points <= smallest:
            return block
        points = max(smallest, round(points * 0.92))


def _set_card_at(card: Card, width: int, points: int, typeface: Typeface) -> _Block:
    title_font, subtitle_font = _load(typeface.strong, points), _load(typeface.regular, round(points * _SUBTITLE_SHARE))
    title = _wrap(card.text, title_font, width * _WIDEST_SHARE, balance=True)
    subtitle = _wrap(card.subtitle, subtitle_font, width * _WIDEST_SHARE, balance=True) if card.subtitle else []
    gap = round(points * 0.42)
    height = len(title) * round(points * _LEADING)
    if subtitle:
        height += 2 * gap + len(subtitle) * round(subtitle_font.size * _LEADING)
    return _Block(title, title_font, subtitle, subtitle_font, gap, height)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, *, balance: bool) -> list[str]:
    """Break a text into lines of at most a width; balanced lines are about equally long."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        wrapped = _fill(paragraph, font, width)
        if balance and len(wrapped) > 1:
            wrapped = _balance(paragraph, font, width, len(wrapped))
        lines += wrapped
    return lines


def _fill(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines: list[str] = [""]
    for part in text.split():
        longer = f"{lines[-1]} {part}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
        while font.getlength(lines[-1]) > width and len(lines[-1]) > 1:
            # A word, or a text without spaces, that is longer than a line.
            fitting = next(
                n for n in range(len(lines[-1]) - 1, 0, -1) if n == 1 or font.getlength(lines[-1][:n]) <= width
            )
            lines[-1:] = [lines[-1][:fitting], lines[-1][fitting:]]
    return lines


def _balance(text: str, font: ImageFont.FreeTypeFont, width: float, count: int) -> list[str]:
    """Return the lines of the least width at which there are no more than `count` of them."""
    low, high = width / count, width
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_fill(text, font, middle)) <= count else (middle, high)
    return _fill(text, font, high)


def _draw_lines(
    draw: ImageDraw.ImageDraw, lines: list[str], font: ImageFont.FreeTypeFont, width: int, top: int, color: str
) -> int:
    """Draw centred lines from an upper edge on; return the lower edge."""
    step = round(font.size * _LEADING)
    for line in lines:
        draw.text((width / 2, top + step / 2), line, font=font, fill=color, anchor="mm")
        top += step
    return top


@lru_cache(maxsize=64)
def _load(path: Path, points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), points)


def _mix(first: str, second: str, share: float) -> str:
    """Return the colour between two others, the second with a share."""
    pairs = zip(ImageColor.getrgb(first)[:3], ImageColor.getrgb(second)[:3], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _even(pixels: int) -> int:
    return pixels + pixels % 2
