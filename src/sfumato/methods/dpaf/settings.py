"""What DPAF's parts and its plan share: the names of its choices, and the norm of a row of maps."""

from __future__ import annotations

from typing import Literal

Loss = Literal["hinge", "non-saturating"]
FirstLayer = Literal["random", "private", "public"]

COUNT_WEIGHT = 0.1
"""A coordinate that is the same for all images counts a class, at half a percent more noise."""


def clip_norm_of(reach: float) -> float:
    """S, the norm at most of maps of norm ``reach`` together with the constant that counts them."""
    return float(reach * (1 + COUNT_WEIGHT**2) ** 0.5)
