"""Poisson sampling by integer comparison: each unit takes part or not, independently."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import SfumatoError
from sfumato.privacy.noise.entropy import Stream

BLOCK = 2**16


def poisson_sample(size: int, rate: float, stream: Stream) -> NDArray[np.int64]:
    """Each of ``size`` units with probability ``rate``, independently; sorted int64 indices."""
    return np.flatnonzero(bernoulli_mask(size, rate, stream)).astype(np.int64)


def bernoulli_mask(n: int, rate: float | Fraction, stream: Stream) -> NDArray[np.bool_]:
    """For each of ``n`` units whether it takes part: true with probability ⌊rate·2⁶⁴⌋/2⁶⁴ ≤ rate.

    The probability is never above ``rate``, so privacy that is accounted at ``rate`` holds; and it
    is less than 2⁻⁶⁴ below. At rate 1 every unit takes part.

    Args:
        n: number of units.
        rate: 0 … 1; a float counts as the fraction that it is.
        stream: secret uniform bits, one 64-bit word a unit.

    Returns:
        bool[n].

    Raises:
        SfumatoError: the rate is not within 0 … 1 or no number, or ``n`` is negative.
    """
    if not 0 <= rate <= 1 or n < 0:
        raise SfumatoError(f"rate={rate} must lie in [0, 1], and n={n} must not be negative.")
    threshold = int(Fraction(rate) * 2**64)
    if threshold == 2**64:  # no uint64, and nothing to draw
        return np.ones(n, dtype=np.bool_)
    mask = np.empty(n, dtype=np.bool_)
    for start in range(0, n, BLOCK):
        part = mask[start : start + BLOCK]
        np.less(stream.words(part.size), np.uint64(threshold), out=part)
    return mask
