"""Arrays of numbers to uint8 pixels: what values mean is declared, never found out from them."""

from __future__ import annotations

import math

import numpy as np

from sfumato.data.decoding.decode import LARGEST_FILE, fit_pixels
from sfumato.data.decoding.scaling import scaled
from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError

Range = tuple[float, float]


def check_images(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Refuse an array that is none of images [n, h, w], [n, h, w, c] or [n, c, h, w].

    Raises DataError. The number of records is not looked at.
    """
    ok = len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3)))
    if not ok or min(shape[1:]) < 1:
        raise DataError(
            f"{where}: the images have {len(shape)} axes [n, {', '.join(map(str, shape[1:]))}]; "
            "they must be [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3. Reshape them."
        )
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise DataError(
            f"{where}: the images have dtype {dtype}; save uint8 0 to 255 or floats 0 to 1."
        )
    if math.prod(shape[1:]) * dtype.itemsize > LARGEST_FILE:
        raise DataError(f"{where}: one image is larger than {LARGEST_FILE} bytes. Save it smaller.")


def axes(shape: tuple[int, ...]) -> tuple[int, int, bool]:
    """Return the short side, the channels, and whether channels come first."""
    if len(shape) == 3:
        return min(shape[1:]), 1, False
    if shape[3] in (1, 3):
        return min(shape[1:3]), shape[3], False
    return min(shape[2:]), shape[1], True


def picture(
    values: np.ndarray, channels_first: bool, spec: PublicSpec, declared: Range | None
) -> np.ndarray | None:
    """One row of an array as uint8 [channels, height, width]; None if a value is out of range."""
    pixels = to_uint8(values, declared)
    if pixels is None:
        return None
    if pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0) if channels_first else pixels
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        pixels = np.ascontiguousarray(pixels)
    return fit_pixels(pixels, spec)


def to_uint8(values: np.ndarray, declared: Range | None = None) -> np.ndarray | None:
    """Values as uint8: by the declared range, else by the dtype.

    A declared range goes to 0 to 255, and what lies beyond its ends to the nearer one. Without it
    uint8 is 0 to 255, bool off and on, uint16 0 to 65535, other integers 0 to 255, floats 0 to 1,
    and a value outside of that makes the record unusable (None). So do NaN and infinity.
    """
    kind = values.dtype.kind
    if declared is not None:
        return scaled(values, declared)
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.view(np.uint8) * np.uint8(255)
    if kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == "f":
        with np.errstate(all="ignore"):
            values = np.rint(values.astype(np.float64) * 255)
    # NaN fails both comparisons, so it is unusable like a value out of range.
    inside = bool(((values >= 0) & (values <= 255)).all())
    return values.astype(np.uint8) if inside else None


def row_label(row: np.ndarray | np.generic) -> int | None:
    """The class number that a row of labels states: itself, or the place of its only one."""
    values = row.reshape(-1)
    if len(values) > 1:
        ones = np.flatnonzero(values)
        return int(ones[0]) if len(ones) == 1 and values[ones[0]] == 1 else None
    value = values[0].item()
    return int(value) if np.isfinite(value) and value == int(value) else None


def check_labels(shape: tuple[int, ...], dtype: np.dtype, most: int, where: str) -> None:
    """Refuse labels that are neither numbers or texts [n] or [n, 1] nor one-hot [n, classes].

    Raises DataError.
    """
    is_text = dtype.kind in "SUO"
    one_each = shape[1:] in ((), (1,))
    if not one_each and (len(shape) != 2 or is_text or not 1 < shape[1] <= most):
        raise DataError(
            f"{where}: the labels have {len(shape)} axes. Save class numbers or names [n], or "
            "one-hot rows [n, classes]."
        )
    if not is_text and (dtype.kind not in "buif" or dtype.itemsize > 8):
        raise DataError(
            f"{where}: the labels must be numbers or texts, not {dtype}. Save class numbers."
        )
