"""The integer grid that answers are summed on: a clip norm is 2²⁰ of its steps.

Plain arithmetic, which plans and queries need before anything is computed; ``clipping`` sums rows
on this grid.
"""

from __future__ import annotations

GRID_BITS = 20
"""A clip norm is 2²⁰ grid steps: a row fits float32 exactly, 2⁴² rows fit int64."""

UNIT = 2**GRID_BITS


def max_dimension(records_per_unit: int = 1) -> int:
    """Largest number of coordinates for which tightening costs at most a hundredth of the bound."""
    return int((UNIT // records_per_unit / 50) ** 2)
