"""Bound each unit's contribution exactly, on an integer grid.

A contribution is scaled to norm at most C, rounded to a grid of step h = C · 2⁻²⁰, and its integer
norm is checked exactly afterwards. Rounding moves a vector of D coordinates by at most h·√D/2, so
the bound is tightened by that much first; the check afterwards makes the bound independent of any
floating-point argument.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRID_BITS = 20
"""A clip norm is 2²⁰ grid steps: a row fits float32 exactly, 2⁴³ rows fit int64."""

UNIT = 2**GRID_BITS


def max_dimension() -> int:
    """Largest number of coordinates for which tightening costs at most a hundredth of the bound."""
    return int((UNIT / 50) ** 2)


def to_grid(contributions: Tensor, clip_norm: float, nonnegative: bool = False) -> Tensor:
    """Clip each row to ``clip_norm`` and express it in whole steps of ``clip_norm / 2**20``.

    Args:
        contributions: float ``[b, d]``, any values.
        clip_norm: C > 0.
        nonnegative: raise negative coordinates to zero first, so that the bound under
            replace-one may use it.

    Returns:
        float32 ``[b, d]`` that holds integers, each row of integer L2 norm at most 2²⁰. A row
        with a NaN or an infinity, or whose rounded norm breaks the bound, is zero. A row's result
        depends on that row alone.
    """
    rows = contributions.to(torch.float32)
    if nonnegative:
        rows = rows.clamp(min=0)
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    usable = torch.isfinite(norms)
    # 1 - 2⁻²⁰ covers the float32 rounding of the product; the rounding to the grid costs √D/2.
    bound = (UNIT - math.sqrt(rows.shape[1]) / 2) * (1 - 2.0**-20)
    factor = bound / norms.clamp(min=clip_norm)
    factor = torch.where(usable, factor, torch.zeros_like(factor)).to(torch.float32)
    rows = torch.where(usable[:, None], rows, torch.zeros((), dtype=torch.float32))
    grid = (rows * factor[:, None]).round_()
    squared = grid.to(torch.float64).square_().sum(dim=1)
    if bool((squared > float(UNIT) ** 2).any()):
        grid[squared > float(UNIT) ** 2] = 0
    return grid
