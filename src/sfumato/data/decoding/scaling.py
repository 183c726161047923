"""Stored values to uint8 by a declared range, never by the values' own."""

from __future__ import annotations

import numpy as np


def scaled(values: np.ndarray, declared: tuple[float, float]) -> np.ndarray | None:
    """Values as uint8, the ends of the declared range being 0 and 255; None if one is no number.

    What lies beyond an end is put to that end. The range may run downwards.
    """
    low, high = declared
    with np.errstate(all="ignore"):
        shares = (values.astype(np.float64) - low) / (high - low)
    if not np.isfinite(shares).all():
        return None
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
