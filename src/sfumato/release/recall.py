"""Recall and accuracy from noisy counts of right and wrong answers, to measure and to verify."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST = 4.0
"""A class is given no recall if its noisy size is below this many deviations of the noise."""

Measured = dict[str, float | None]
"""``value`` and ``deviation`` (of the noise), both None where the noise drowns the value."""


def recalls(counts: NDArray[np.float64], noise_std: float) -> list[dict[str, Any]]:
    """Accuracy and recall of m classifiers.

    Args:
        counts: ``[classes, 2m]``, noisy numbers of right and of wrong answers of each classifier.
        noise_std: standard deviation of their noise.

    Returns:
        ``accuracy`` and ``recall`` (by class) of each classifier.
    """
    spread = noise_std * math.sqrt(len(counts))
    return [
        {
            "accuracy": _share(float(right.sum()), float(wrong.sum()), spread),
            "recall": [
                _share(float(r), float(w), noise_std) for r, w in zip(right, wrong, strict=True)
            ],
        }
        for right, wrong in zip(counts.T[::2], counts.T[1::2], strict=True)
    ]


def _share(right: float, wrong: float, noise_std: float) -> Measured:
    """right / (right + wrong) with its deviation, by the delta method."""
    count = right + wrong
    if count < FEWEST * math.sqrt(2) * noise_std:
        return {"value": None, "deviation": None}
    share = min(max(right / count, 0.0), 1.0)
    deviation = noise_std / count * math.hypot(1 - share, share)
    return {"value": share, "deviation": deviation}
