"""Bound each row exactly, on an integer grid, and add up: the front half of every answer.

A row is scaled to norm at most C, rounded to a grid of step h = C · 2⁻²⁰, and its integer norm is
checked exactly afterwards. Rounding moves a vector of D coordinates by at most h·√D/2, so the bound
is tightened by that much first; the check afterwards makes the bound independent of any
floating-point argument. ``docs/proofs/integer-gaussian.md``, "Grid and clip".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.privacy.grid import UNIT

EXACT_ROWS = 16
"""Sixteen rows of at most 2²⁰ steps add up to at most 2²⁴, exact in float32 in any order."""

STRETCH = 2**10
"""Squares of so many coordinates are added in float32; all beyond that in float64."""

STRETCH_ERROR = 2.0**-14
"""A stretch's norm is off by a smaller share than this, in whatever order its squares are added."""

MARGIN = 2.0**-13
"""Bounds are tightened by this share, so that rounding takes no row beyond them."""

COLUMNS_AT_ONCE = {"cpu": 2**14, "cuda": 2**21}
"""On a CPU, sixteen rows of so many coordinates stay in a core's cache while they are worked on."""


def clipped_sum(rows: Tensor, clip_norm: float, bounds: Tensor | None = None) -> Tensor:
    """Clip each row to ``clip_norm`` and add up, in whole steps of ``clip_norm / 2**20``.

    Args:
        rows: float32 ``[b, d]``, any values.
        clip_norm: C > 0.
        bounds: int64 ``[b]``, the most steps for each row, from 1 to 2²⁰; a row is scaled down in
            proportion. None: 2²⁰ for all.

    Returns:
        int64 ``[d]``: the sum, not rounded, of one integer vector of L2 norm at most its bound for
        each row. A row with a NaN or an infinity, or whose rounded norm breaks the bound, adds
        nothing. What a row adds depends on that row alone.
    """
    total = torch.zeros(rows.shape[1], dtype=torch.int64, device=rows.device)
    add_clipped(total, rows, clip_norm, bounds)
    return total


def clipped_sums(
    rows: Tensor, clip_norm: float, bounds: Tensor | None, starts: Sequence[int]
) -> Tensor:
    """What :func:`clipped_sum` returns for each stretch of at most sixteen rows.

    Args:
        rows, clip_norm, bounds: as there; at most sixteen rows.
        starts: ascending from 0, the first row of each stretch.

    Returns:
        int64 ``[stretches, d]``.
    """
    return _few_sums(rows, clip_norm, bounds, starts).to(torch.int64)


def add_clipped(
    total: Tensor, rows: Tensor, clip_norm: float, bounds: Tensor | None = None
) -> None:
    """Add what :func:`clipped_sum` returns to ``total``, int64 ``[d]``, in place."""
    for start in range(0, len(rows), EXACT_ROWS):
        few = slice(start, start + EXACT_ROWS)
        part, most = rows[few], None if bounds is None else bounds[few]
        missing = EXACT_ROWS - len(part)
        if rows.device.type != "cpu" and missing:
            # A GPU's kernel may split a row between threads by how many rows there are.
            part = F.pad(part, (0, 0, 0, missing))
            most = None if most is None else F.pad(most, (0, missing), value=1)
        (sums,) = _few_sums(part, clip_norm, most, (0,))
        for start in range(0, len(sums), _columns(rows)):
            columns = slice(start, start + _columns(rows))
            total[columns] += sums[columns].to(torch.int64)


def some_rows(
    rows: Tensor, chosen: Tensor, bounds: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The ``chosen`` rows and their bounds, on the rows' device; on a GPU always sixteen.

    Zeros, which add nothing to any sum, stand for the missing ones: what the memory of a GPU holds
    then does not show how many were chosen.

    Args:
        chosen: int64 ``[k]`` in the host's memory, k at most sixteen.
        bounds: int64 ``[b]`` in the host's memory.
    """
    most = None if bounds is None else bounds[chosen]
    if rows.device.type == "cpu":
        return rows[chosen], most
    missing = EXACT_ROWS - len(chosen)
    real = (torch.arange(EXACT_ROWS) < len(chosen)).to(rows.device)
    found = torch.where(real[:, None], rows[F.pad(chosen, (0, missing)).to(rows.device)], 0.0)
    return found, None if most is None else F.pad(most, (0, missing), value=1).to(rows.device)


def _few_sums(
    rows: Tensor, clip_norm: float, bounds: Tensor | None, starts: Sequence[int]
) -> Tensor:
    """Sums of stretches of at most sixteen rows, whole numbers in float32 ``[stretches, d]``.

    On a GPU without waiting for it, and with the same steps and memory whatever the rows are.
    """
    norms = row_norms(rows)
    most = torch.full_like(norms, UNIT) if bounds is None else bounds.to(norms)
    bound = (most - math.sqrt(rows.shape[1]) / 2).clamp_(min=0) * (1 - MARGIN)
    factors = (bound / norms.clamp(min=clip_norm)).to(torch.float32)[:, None]
    sums, ends = rows.new_empty(len(starts), rows.shape[1]), [*starts[1:], len(rows)]
    scratch = torch.empty(len(rows) * _columns(rows), device=rows.device)

    def add_up(within: Tensor | None) -> Tensor:
        """Fill ``sums``, without rows that are not ``within``; the norms of all rows in steps."""
        reached = torch.zeros_like(norms)
        for start in range(0, rows.shape[1], _columns(rows)):
            part = rows[:, start : start + _columns(rows)]
            steps = torch.mul(part, factors, out=scratch[: part.numel()].view(part.shape)).round_()
            if within is None:
                reached += row_norms(steps).square_()
            else:
                steps.masked_fill_(~within[:, None], 0.0)
            columns = sums[:, start : start + _columns(rows)]
            for number, first in enumerate(starts):
                torch.sum(steps[first : ends[number]], dim=0, out=columns[number])
        return reached.sqrt_()

    # In two passes, so that nothing counts before all norms are known: rows that break their bound
    # are rare, and the second pass then leaves them out.
    reached = add_up(None)
    # Written so that a NaN is not within the bound. Whoever passes here passes the exact check too.
    within = torch.isfinite(norms) & (reached * (1 + 2 * STRETCH_ERROR) <= most)
    on_cpu = rows.device.type == "cpu"
    if on_cpu and not bool(within.all()):
        within = torch.isfinite(norms) & (_squared_steps(rows, factors) <= most**2)
    if not on_cpu or not bool(within.all()):
        add_up(within)
    return sums


def _squared_steps(rows: Tensor, factors: Tensor) -> Tensor:
    """Squared norm of each row in steps, float64 ``[b]``; exact up to 2⁵⁰, and larger beyond."""
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for part in rows.split(2**10, dim=1):
        total += (part * factors).round_().to(torch.float64).square_().sum(dim=1)
    return total


def _columns(rows: Tensor) -> int:
    return min(COLUMNS_AT_ONCE.get(rows.device.type, 2**14), rows.shape[1])


def row_norms(rows: Tensor) -> Tensor:
    """L2 norm of each row ``[b, d]``, float64 ``[b]``, to a relative ``STRETCH_ERROR``.

    Infinite if a square overflows float32. Each row's is a function of that row alone: no kernel
    splits a stretch between threads.
    """
    whole = rows.shape[1] // STRETCH * STRETCH
    parts = [rows[:, :whole].unflatten(1, (-1, STRETCH))] if whole else []
    if whole < rows.shape[1]:
        parts.append(rows[:, None, whole:])
    found = [torch.linalg.vector_norm(part, dim=2) for part in parts]
    return torch.linalg.vector_norm(torch.cat(found, dim=1).to(torch.float64), dim=1)
