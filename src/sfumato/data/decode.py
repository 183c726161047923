"""One record's bytes or pixels to a fixed uint8 array, whatever they hold.

The rule, in order: first frame; EXIF orientation applied; centre crop to the short side; alpha
composited on black; 16-bit greys scaled to 8 bits; grey and colour converted to each other by
Pillow's ``L`` (ITU-R 601-2 luma); resized with Lanczos (``Pillow.Image.Resampling.LANCZOS``).
What cannot be decoded within the bounds below is ``None``: one record's content is private, so it
may neither raise an error nor print a warning.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from PIL import (  # noqa: F401  (a plugin that is not imported makes Pillow load all of them)
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sfumato.data.spec import PublicSpec

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
LARGEST_FILE = 64 * 2**20
"""Bytes of one encoded record; a longer one is unusable."""
LARGEST_AREA = 2**26
"""Pixels of one record before it is resized; bounds the memory of a decompression bomb."""
LONGEST_SIDE = 2**15

_MUTING = threading.Lock()
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation to the operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, spec: PublicSpec) -> np.ndarray | None:
    """Return an encoded image as uint8 [channels, height, width], or None if it is unusable.

    Never raises. Call it inside ``quiet``, because Pillow warns and logs about what it reads.
    """
    if len(data) > LARGEST_FILE:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST_AREA or max(image.size) > LONGEST_SIDE:
                return None
            with _mute() if image.format == "TIFF" else nullcontext():
                image.load()
            orientation = image.getexif().get(_ORIENTATION_TAG)
            turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
            return _fit(image if turn is None else image.transpose(turn), spec)
    # Hostile files make Pillow raise almost anything, and every case means the same here.
    except Exception:
        return None


def fit_pixels(pixels: np.ndarray, spec: PublicSpec) -> np.ndarray:
    """Return uint8 [h, w] or [h, w, 3] pixels as uint8 [channels, height, width]."""
    if pixels.shape == (spec.height, spec.width) and spec.channels == 1:
        return pixels[None]
    if pixels.shape == (spec.height, spec.width, spec.channels):
        return pixels.transpose(2, 0, 1)
    return _fit(Image.fromarray(pixels), spec)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings and Pillow's loggers while private records are decoded.

    Both can quote what a record holds. Blocks may nest and overlap between threads: the first to
    enter silences, the last to leave restores.
    """
    _Silence.enter()
    try:
        yield
    finally:
        _Silence.leave()


class _Silence:
    lock = threading.Lock()
    depth = 0
    level = logging.NOTSET
    warnings: warnings.catch_warnings

    @classmethod
    def enter(cls) -> None:
        with cls.lock:
            cls.depth += 1
            if cls.depth == 1:
                cls.warnings = warnings.catch_warnings()
                cls.warnings.__enter__()
                warnings.simplefilter("ignore")
                logger = logging.getLogger("PIL")
                cls.level = logger.level
                logger.setLevel(logging.CRITICAL + 1)

    @classmethod
    def leave(cls) -> None:
        with cls.lock:
            cls.depth -= 1
            if cls.depth == 0:
                cls.warnings.__exit__(None, None, None)
                logging.getLogger("PIL").setLevel(cls.level)


@contextmanager
def _mute() -> Iterator[None]:
    """Keep libtiff from standard error, where it names tags and lengths of the damaged record."""
    with _MUTING:
        try:
            saved = os.dup(2)
        except OSError:  # a program without one
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _fit(image: Image.Image, spec: PublicSpec) -> np.ndarray:
    width, height = image.size
    if width != height:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    mode = "L" if spec.channels == 1 else "RGB"
    image = _resizable(image, mode)
    if image.size != (spec.width, spec.height):
        image = image.resize((spec.width, spec.height), Image.Resampling.LANCZOS)
    if image.mode == "I":
        wide = np.clip(np.asarray(image), 0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode == "RGBa":
        image = Image.merge("RGB", image.split()[:3])
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[None] if spec.channels == 1 else pixels.transpose(2, 0, 1)


def _resizable(image: Image.Image, mode: str) -> Image.Image:
    """Return an image whose values average rightly: the wanted mode, 16 bits, or black beneath."""
    if image.mode.startswith("I"):
        # Pillow's 32-bit "I" is what older versions make of a 16-bit PNG, so both have one rule.
        return image.convert("I")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no stated range")
    if image.has_transparency_data:
        # Premultiplied colours are the colours on black.
        return (image if image.mode == "RGBA" else image.convert("RGBA")).convert("RGBa")
    return image if image.mode == mode else image.convert(mode)
