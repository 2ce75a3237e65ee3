"""Text in the picture: prompt, time code, model and clip number, progress bar, watermark."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from text_unidecode import unidecode

from prefect_video.emulator.rendering.spec import ClipSpec

WHITE, BLACK, NEUTRAL = 235, 16, 128
MAX_LINES = 4
WATERMARK = "EMULATOR"
_DIGITS = "0123456789:."
_INVISIBLE: Final = frozenset({"Mn", "Me", "Cf"})
"""Unicode categories of combining accents, joiners and selectors."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class TextOverlay:
    """Text over the frames of one clip: drawn once, pasted into every frame.

    It uses Pillow's own font, so that clips look the same on every machine; what the font lacks is transliterated.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self._width, self._height = spec.width, spec.height
        unit = min(spec.width, spec.height)
        self._margin = (unit // 24) & ~1
        self._caption = _draw_caption(spec, self._margin, _load_font(unit // 19), _load_font(unit // 34))
        self._caption_top = (spec.height - self._caption.height) & ~1
        self._has_watermark = spec.watermark
        self._watermark = _draw_line(WATERMARK, _load_font(unit // 14), strength=150)
        self._digits = {digit: _draw_line(digit, _load_font(unit // 13)) for digit in _DIGITS}
        self._cell = max(image.width for image in self._digits.values())

    def draw(
        self,
        luma: Image.Image,
        blue: Image.Image,
        red: Image.Image,
        *,
        seconds: float,
        frame: int,
        share: float,
    ) -> None:
        """Draw all text over a frame's planes.

        Args:
            luma: Luma plane.
            blue: Blue chroma plane.
            red: Red chroma plane.
            seconds: Time of the frame.
            frame: Number of the frame within its second.
            share: Share of the clip that has passed, 0 to 1.
        """
        self._draw_panel(luma, blue, red)
        luma.paste(WHITE, (0, self._caption_top), self._caption)
        if self._has_watermark:
            luma.paste(WHITE, (self._width - self._watermark.width - self._margin, self._margin), self._watermark)
        self._draw_time(luma, f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.{frame:02d}")
        bar = max(2, self._margin // 6)
        luma.paste(WHITE, (0, self._height - bar, round(self._width * share), self._height))

    def _draw_panel(self, luma: Image.Image, blue: Image.Image, red: Image.Image) -> None:
        """Darken and desaturate the area under the prompt, for contrast."""
        shade = Image.new("L", (self._width, self._height - self._caption_top), 150)
        luma.paste(BLACK, (0, self._caption_top), shade)
        top = self._caption_top // 2
        half = shade.resize((blue.width, blue.height - top))
        blue.paste(NEUTRAL, (0, top), half)
        red.paste(NEUTRAL, (0, top), half)

    def _draw_time(self, luma: Image.Image, text: str) -> None:
        x = self._margin
        for digit in text:
            image = self._digits[digit]
            luma.paste(BLACK, (x + 2, self._margin + 2), image)
            luma.paste(WHITE, (x, self._margin), image)
            x += self._cell if digit.isdigit() else image.width


def _load_font(size: int) -> Font:
    return ImageFont.load_default(size=max(8, size))


def _draw_line(text: str, font: Font, strength: int = 255) -> Image.Image:
    """Draw one line of text as a mask; all lines of a font have the same height."""
    height = round(font.getbbox("Ag0")[3] * 1.1)
    image = Image.new("L", (max(1, round(font.getlength(text)) + 1), height), 0)
    ImageDraw.Draw(image).text((0, 0), text, font=font, fill=strength)
    return image


def _draw_caption(spec: ClipSpec, margin: int, font: Font, small: Font) -> Image.Image:
    """Draw the wrapped prompt, over a small line with model and clip number, as a mask across the whole width."""
    lines = [_draw_line(text, font) for text in wrap(spec.prompt, font, spec.width - 2 * margin)]
    remix = f"   REMIX of {spec.remix_of[:24]}" if spec.remix_of else ""
    lines.append(_draw_line(f"{transliterate(spec.model)[:40]}   clip {spec.key[:8]}{remix}", small, strength=215))
    height = sum(line.height for line in lines) + round(margin * 2)
    panel = Image.new("L", (spec.width, height + height % 2), 0)
    y = margin
    for line in lines:
        panel.paste(line, (margin, y))
        y += line.height
    return panel


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Wrap text into at most `MAX_LINES` lines of `width` pixels; omitted text becomes an ellipsis."""
    lines: list[str] = []
    words = transliterate(text[:2000]).split()
    while words and len(lines) < MAX_LINES:
        line = _take_line(words, font, width)
        lines.append(line)
    if words and lines:
        lines[-1] = _shorten(lines[-1] + " …", font, width)
    return lines


def _take_line(words: list[str], font: Font, width: int) -> str:
    """Remove from `words` as many as fit into one line, and return the line; cut a word longer than a line."""
    line = words.pop(0)
    if font.getlength(line) > width:
        return _shorten(line + "…", font, width)
    while words and font.getlength(f"{line} {words[0]}") <= width:
        line = f"{line} {words.pop(0)}"
    return line


def _shorten(line: str, font: Font, width: int) -> str:
    while font.getlength(line) > width and len(line) > 2:
        line = line[:-2] + "…"
    return line


def transliterate(text: str) -> str:
    """Return the text in characters that the font can draw: `Köln ж ♥` as `Koln zh [black heart suit]`."""
    return "".join(map(_transliterate, unicodedata.normalize("NFC", text)))


@cache
def _transliterate(char: str) -> str:
    if char.isspace() or _is_drawn(char):
        return char
    plain: str = unidecode(char)
    # The table ends with the basic plane, and gives "[?]" for characters that it lacks.
    if plain and plain != "[?]":
        return plain
    if unicodedata.category(char) in _INVISIBLE:
        return ""
    return f"[{unicodedata.name(char, f'U+{ord(char):04X}').lower()}]"


@cache
def _is_drawn(char: str) -> bool:
    # A font draws the replacement character for everything that it lacks.
    return _draw_glyph(char) != _draw_glyph("\N{REPLACEMENT CHARACTER}")


def _draw_glyph(char: str) -> bytes:
    return bytes(ImageFont.load_default(size=20).getmask(char))
