"""Bound each unit's contribution exactly, on an integer grid.

A contribution is scaled to norm at most C, rounded to a grid of step h = C · 2⁻²⁰, and its integer
norm is checked exactly afterwards. Rounding moves a vector of D coordinates by at most h·√D/2, so
the bound is tightened by that much first; the check afterwards makes the bound independent of any
floating-point argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

GRID_BITS = 20
"""A clip norm is 2²⁰ grid steps: a row fits float32 exactly, 2⁴³ rows fit int64."""

UNIT = 2**GRID_BITS

EXACT_ROWS = 16
"""Sixteen rows of at most 2²⁰ steps add up to at most 2²⁴, exact in float32 in any order."""

COLUMNS_AT_ONCE = 2**14
"""Sixteen rows of so many coordinates stay in a core's cache while they are worked on; one row of
so many is below the 2¹⁵ values from which PyTorch splits a single sum between threads."""


def max_dimension(records_per_unit: int = 1) -> int:
    """Largest number of coordinates for which tightening costs at most a hundredth of the bound."""
    return int((UNIT // records_per_unit / 50) ** 2)


def clipped_sum(
    values: Tensor,
    chosen: Tensor,
    clip_norm: float,
    nonnegative: bool = False,
    bounds: Tensor | None = None,
) -> Tensor:
    """Clip each chosen row to ``clip_norm`` and add up, in whole steps of ``clip_norm / 2**20``.

    Args:
        values: float32 ``[b, d]``, any values.
        chosen: int64 ``[k]``, the rows to add, at most sixteen.
        clip_norm: C > 0.
        nonnegative: raise negative coordinates to zero first, so that the bound under
            replace-one may use it.
        bounds: int64 ``[b]``, the most steps for each row, from 1 to 2²⁰; a row is scaled down in
            proportion. None: 2²⁰ for all.

    Returns:
        float32 ``[d]`` that holds integers: the sum, not rounded, of one integer vector of L2 norm
        at most its bound for each row. A row with a NaN or an infinity, or whose rounded norm
        breaks the bound, adds nothing. What a row adds depends on that row alone.
    """
    dimension = values.shape[1]
    squared = torch.zeros(len(chosen), dtype=torch.float64)
    for _, tile in _tiles(values, chosen, nonnegative):
        squared += _squared_norms(tile)
    # 1 - 2⁻²⁰ covers the float32 rounding of the product; the rounding to the grid costs √D/2.
    most = torch.full_like(squared, UNIT) if bounds is None else bounds[chosen].to(torch.float64)
    bound = (most - math.sqrt(dimension) / 2).clamp_(min=0) * (1 - 2.0**-20)
    factor = (bound / squared.sqrt().clamp(min=clip_norm)).to(torch.float32)
    result, reached = torch.empty(dimension), torch.zeros_like(squared)
    for columns, tile in _tiles(values, chosen, nonnegative):
        steps = tile.mul_(factor[:, None]).round_()
        reached += _squared_norms(steps).round_()
        torch.sum(steps, dim=0, out=result[columns])
    # Written so that a NaN is not within the bound.
    within = torch.isfinite(squared) & (reached <= most**2)
    if not bool(within.all()):
        return clipped_sum(values, chosen[within], clip_norm, nonnegative, bounds)
    return result


def _tiles(values: Tensor, chosen: Tensor, nonnegative: bool) -> Iterator[tuple[slice, Tensor]]:
    """Copies of the chosen rows, some columns at a time; each overwrites the one before it.

    A copy has one layout whatever the layout of ``values``: a kernel may add up a strided row in
    another order than its neighbour.
    """
    scratch = torch.empty(len(chosen) * min(COLUMNS_AT_ONCE, values.shape[1]))
    for start in range(0, values.shape[1], COLUMNS_AT_ONCE):
        part = values[:, start : start + COLUMNS_AT_ONCE]
        tile = scratch[: len(chosen) * part.shape[1]].view(len(chosen), part.shape[1])
        torch.index_select(part, 0, chosen, out=tile)
        yield slice(start, start + part.shape[1]), tile.clamp_(min=0) if nonnegative else tile


def _squared_norms(rows: Tensor) -> Tensor:
    """Squared L2 norm of each row, float64 ``[b]``; within ½ of the integer for rows of steps."""
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square_()
