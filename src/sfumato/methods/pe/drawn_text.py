"""Variations from fonts and shapes: characters, lines of text and figures in many hands.

Fonts are those that Pillow and matplotlib ship and those of the system; nothing is downloaded. A
class whose name is short is written out, so digits named 0 to 9 begin as digits.
"""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfumato.data.spec import PublicSpec
from sfumato.methods.pe.variations import Candidates

LONGEST_NAME = 3
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHAPES = ("ellipse", "rectangle", "triangle", "line")
FINER = 4
"""Images are made this many times larger, then shrunk, so that edges are smooth."""

LOW = np.array([0.0, 0.0, 1.0, 0.55, 0.55, -30, -0.4, -0.15, -0.15, 0.0, 0.0, 0.0])
HIGH = np.array([1.0, 1.0, 6.0, 1.05, 1.1, 30, 0.4, 0.15, 0.15, 0.12, 1.5, 1.0])
"""Ranges of the traits: glyph, font, lines, height and width of the glyph in shares of the image's,
angle in degrees, shear, shift across and down, thickness, blur in pixels, brightness of paper."""

GLYPH, FONT, LINES, PAPER = 0, 1, 2, 11


class DrawnText:
    """Text and shapes; see :class:`Variations`. Traits are those of :data:`LOW`, then colours.

    Args:
        spec: form of the images, and the classes' names.
    """

    def __init__(self, spec: PublicSpec) -> None:
        self._spec = spec
        self._named = bool(spec.classes) and max(map(len, spec.classes)) <= LONGEST_NAME
        colours = np.tile([[0.0], [1.0]], spec.channels) if spec.channels > 1 else np.zeros((2, 0))
        self._low = np.concatenate([LOW, colours[0]])
        self._high = np.concatenate([HIGH, colours[1]])

    @cached_property
    def _glyphs(self) -> list[str]:
        return list(self._spec.classes) if self._named else [*CHARACTERS, *SHAPES]

    @cached_property
    def _fonts(self) -> list[str]:
        needed = {ord(c) for glyph in self._glyphs if glyph not in SHAPES for c in glyph}
        usable = (path for path in font_files() if needed <= _characters(path))
        return ["", *(path for path in usable if _is_lettered(path))]

    def first(self, labels: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """Each class's name, or any character or shape, with all traits at random."""
        traits = rng.uniform(self._low, self._high, (len(labels), len(self._low)))
        traits[:, PAPER] = traits[:, PAPER] >= 0.5
        if self._named:
            traits[:, LINES] = 1
            traits[:, GLYPH] = (labels + 0.5) / len(self._glyphs)
        return self._made(traits)

    def vary(self, candidates: Candidates, degree: float, rng: np.random.Generator) -> Candidates:
        """Move each trait by up to ``degree`` of its range; some glyphs and fonts are exchanged."""
        spread = (self._high - self._low) * degree / 2
        old = candidates.traits
        traits = np.clip(old + rng.uniform(-spread, spread, old.shape), self._low, self._high)
        keeping = rng.random((len(old), 3)) >= degree / 2
        for column, kept in zip((GLYPH, FONT, PAPER), keeping.T, strict=True):
            drawn = rng.random(len(old))
            fresh = (drawn >= 0.5) if column == PAPER else drawn
            traits[:, column] = np.where(kept, old[:, column], fresh)
        if self._named:
            traits[:, [GLYPH, LINES]] = old[:, [GLYPH, LINES]]
        return self._made(traits)

    def _made(self, traits: NDArray[np.float64]) -> Candidates:
        return Candidates(np.stack([self._image(row) for row in traits]), traits)

    def _image(self, traits: NDArray[np.float64]) -> NDArray[np.uint8]:
        """uint8 ``[c, h, w]`` of one row of traits."""
        glyph = self._glyphs[min(int(traits[GLYPH] * len(self._glyphs)), len(self._glyphs) - 1)]
        font = self._fonts[min(int(traits[FONT] * len(self._fonts)), len(self._fonts) - 1)]
        _, _, lines, tall, wide, angle, shear, across, down, thick, blur, paper = traits[:12]
        height, width = FINER * self._spec.height, FINER * self._spec.width
        text = glyph if glyph in SHAPES else "\n".join([glyph * round(lines)] * round(lines))
        stroke = round(thick * min(height, width) / round(lines))
        size = (max(1, round(wide * width)), max(1, round(tall * height)))
        drawn = Image.new("L", (width, height))
        corner = ((width - size[0]) // 2, (height - size[1]) // 2)
        drawn.paste(_figure(text, font, max(stroke, 0), size), corner)
        turn = np.deg2rad(angle)
        middle = np.array([width / 2, height / 2])
        matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        matrix = matrix @ np.array([[1, shear], [0, 1]])
        offset = middle - matrix @ (middle + np.array([across * width, down * height]))
        affine = (*matrix[0], offset[0], *matrix[1], offset[1])
        drawn = drawn.transform(
            drawn.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        drawn = drawn.resize((self._spec.width, self._spec.height), Image.Resampling.BOX)
        ink = np.asarray(drawn, np.float64) / 255
        ink = _blurred(ink, blur)
        dark, light = (0.0, 1.0) if paper >= 0.5 else (1.0, 0.0)
        grey = light + (dark - light) * ink
        if self._spec.channels == 1:
            return np.rint(255 * grey).astype(np.uint8)[None]
        colour = traits[12:, None, None]
        return np.rint(255 * (colour * ink + light * (1 - ink))).astype(np.uint8)


def _figure(text: str, font: str, stroke: int, size: tuple[int, int]) -> Image.Image:
    """The ink of a text or shape, grey, cut to its box and brought to ``size``."""
    if text in SHAPES:
        figure = Image.new("L", size)
        pen, box = ImageDraw.Draw(figure), (0, 0, size[0] - 1, size[1] - 1)
        if text == "ellipse":
            pen.ellipse(box, 255)
        elif text == "rectangle":
            pen.rectangle(box, 255)
        elif text == "triangle":
            pen.polygon([(size[0] // 2, 0), (0, size[1] - 1), (size[0] - 1, size[1] - 1)], 255)
        else:
            pen.line(box, 255, width=max(1, stroke))
        return figure
    letters, gap = _font(font), 40
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, letters, stroke_width=stroke)
    figure = Image.new("L", (max(1, int(right - left) + 2), max(1, int(bottom - top) + 2)))
    place = (1 - left, 1 - top)
    ImageDraw.Draw(figure).multiline_text(place, text, 255, letters, stroke_width=stroke)
    figure = figure.crop(figure.getbbox() or (0, 0, gap, gap))
    return figure.resize(size, Image.Resampling.BILINEAR)


def _blurred(ink: NDArray[np.float64], pixels: float) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    blurred: NDArray[np.float64] = gaussian_filter(ink, pixels)
    return blurred / max(blurred.max(), 1e-6)


@cache
def font_files() -> list[str]:
    """All fonts that matplotlib ships and the system has, by path."""
    from matplotlib import font_manager, get_data_path  # on use: its import writes a cache

    shipped = Path(get_data_path(), "fonts", "ttf").glob("*.ttf")
    return sorted({*map(str, shipped), *font_manager.findSystemFonts()})


@cache
def _characters(path: str) -> frozenset[int]:
    """The characters that a font file has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _is_lettered(path: str) -> bool:
    """Whether digits look different, which they do not in a font of symbols or placeholders."""
    font = _font(path)
    return len({bytes(font.getmask(digit)) for digit in "0123456789"}) == 10


@cache
def _font(path: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    size = 96
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
