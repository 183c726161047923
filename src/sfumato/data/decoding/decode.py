"""One record's bytes or pixels to a fixed uint8 array, whatever they hold.

The rule, in order: first frame; EXIF orientation applied; stored values scaled to 8 bits by a
declared range, else all 16 bits; centre crop to the short side; alpha composited on black; grey and
colour converted to each other by Pillow's ``L`` (ITU-R 601-2 luma); resized with Lanczos
(``Pillow.Image.Resampling.LANCZOS``). DICOM: ``data/dicom.py``.
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
from typing import ClassVar

import numpy as np
from PIL import (  # noqa: F401  (a plugin that is not imported makes Pillow load all of them)
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sfumato.data.decoding import dicom
from sfumato.data.decoding.scaling import scaled
from sfumato.data.options import DataOptions
from sfumato.data.spec import PublicSpec

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
LARGEST_FILE = 64 * 2**20
"""Bytes of one encoded record; a longer one is unusable."""
LARGEST_AREA = 2**26
"""Pixels of one record before it is resized; bounds the memory of a decompression bomb."""
LONGEST_SIDE = 2**15

_PLAIN = DataOptions()
_SPEAKERS = ("PIL", "pydicom", "pylibjpeg", "openjpeg", "rle")
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


def decode(data: bytes, spec: PublicSpec, options: DataOptions = _PLAIN) -> np.ndarray | None:
    """Return an encoded image as uint8 [channels, height, width], or None if it is unusable.

    ``options`` say how values are scaled, and which frame of a DICOM file is read. Never raises.
    Call it inside ``quiet``, because Pillow and pydicom warn and log about what they read.
    """
    if len(data) > LARGEST_FILE:
        return None
    try:
        if dicom.is_marked(data) or (options.dicom and not is_image(data)):
            with _mute():
                pixels = dicom.pixels_of(data, options)
            return None if pixels is None else fit_pixels(pixels, spec)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST_AREA or max(image.size) > LONGEST_SIDE:
                return None
            with _mute() if image.format == "TIFF" else nullcontext():
                image.load()
            orientation = image.getexif().get(_ORIENTATION_TAG)
            turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
            whole = image if turn is None else image.transpose(turn)
            if options.value_range is not None:
                whole = _ranged(whole, options.value_range)
            return _fit(whole, spec)
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
    """Silence Python warnings and the decoders' loggers while private records are decoded.

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
    levels: ClassVar[dict[str, int]] = {}
    warnings: warnings.catch_warnings

    @classmethod
    def enter(cls) -> None:
        with cls.lock:
            cls.depth += 1
            if cls.depth == 1:
                cls.warnings = warnings.catch_warnings()
                cls.warnings.__enter__()
                warnings.simplefilter("ignore")
                cls.levels = {name: logging.getLogger(name).level for name in _SPEAKERS}
                for name in _SPEAKERS:
                    logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    @classmethod
    def leave(cls) -> None:
        with cls.lock:
            cls.depth -= 1
            if cls.depth == 0:
                cls.warnings.__exit__(None, None, None)
                for name, level in cls.levels.items():
                    logging.getLogger(name).setLevel(level)


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


def is_image(data: bytes) -> bool:
    """Whether a file begins as an image of these formats does."""
    return data.startswith((b"\x89PNG", b"\xff\xd8", b"BM", b"II*\0", b"MM\0*", b"RIFF"))


def _ranged(image: Image.Image, declared: tuple[float, float]) -> Image.Image:
    """An image whose stored values are scaled by a declared range; alpha is composited first."""
    if image.mode[0] not in "IFL1" or image.has_transparency_data:
        image = image.convert("RGBA").convert("RGBa")
        image = Image.merge("RGB", image.split()[:3])
    pixels = scaled(np.asarray(image), declared)
    if pixels is None:
        raise ValueError("a value is no number")
    return Image.fromarray(pixels)


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
