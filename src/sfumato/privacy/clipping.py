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

COLUMNS_AT_ONCE = 2**16
"""Coordinates whose float64 copy stays in a core's cache."""


def max_dimension() -> int:
    """Largest number of coordinates for which tightening costs at most a hundredth of the bound."""
    return int((UNIT / 50) ** 2)


def to_grid(
    contributions: Tensor, clip_norm: float, nonnegative: bool = False, out: Tensor | None = None
) -> Tensor:
    """Clip each row to ``clip_norm`` and express it in whole steps of ``clip_norm / 2**20``.

    Args:
        contributions: float ``[b, d]``, any values.
        clip_norm: C > 0.
        nonnegative: raise negative coordinates to zero first, so that the bound under
            replace-one may use it.
        out: where to put the result; fresh memory for every row costs more than the arithmetic.

    Returns:
        float32 ``[b, d]`` that holds integers, each row of integer L2 norm at most 2²⁰. A row
        with a NaN or an infinity, or whose rounded norm breaks the bound, is zero. A row's result
        depends on that row alone.
    """
    # Contiguous: a kernel may add a strided row in another order than its neighbour.
    rows = contributions.to(torch.float32).contiguous()
    if nonnegative:
        rows = rows.clamp(min=0)
    norms = _squared_norms(rows).sqrt_()
    # 1 - 2⁻²⁰ covers the float32 rounding of the product; the rounding to the grid costs √D/2.
    bound = (UNIT - math.sqrt(rows.shape[1]) / 2) * (1 - 2.0**-20)
    factor = (bound / norms.clamp(min=clip_norm)).to(torch.float32)
    grid = torch.mul(rows, factor[:, None], out=out).round_()
    # Rounding makes the integer norm exact. Written so that a NaN is not within the bound.
    within = torch.isfinite(norms) & (_squared_norms(grid).round_() <= float(UNIT) ** 2)
    if not bool(within.all()):
        grid[~within] = 0
    return grid


def _squared_norms(rows: Tensor) -> Tensor:
    """Squared L2 norm of each row, float64 ``[b]``, to a relative error far below 2⁻²⁰.

    Rows of grid steps near the bound have it to within ½: their sums of squares stay below 2⁵³.
    """
    result = torch.zeros(len(rows), dtype=torch.float64)
    for part in rows.split(COLUMNS_AT_ONCE, dim=1):
        result += torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square_()
    return result
