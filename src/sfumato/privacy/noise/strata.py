"""The strata of one scale: runs of equally many integers, and tables to draw a run and judge it.

Stratum k holds the integers kw … kw + w − 1 and their mirror images −kw − 1 … −kw − w, with w a
power of two. A stratum is proposed with probability ∝ exp(−(kw)²/2s²), which bounds the weight of
every integer in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from sfumato.privacy.noise.enclosure import Enclosure, LazyUniform, boundaries, exp_minus
from sfumato.privacy.noise.entropy import Stream

CELL_BITS = 16
"""Bits of a uniform that nearly always tell the stratum; also the bits of a coin's first look."""

MOST_STRATA = 128
"""Strata with tables; a scale of 8 or more reaches 8 standard deviations with them."""

LARGEST_EXPONENT = 16
"""Fixed-point exponents stay below this; see ``fixed_point.py``."""

WIDTH_SHIFT = 3
"""The width is the power of two in (s/16, s/8], or 1 for small scales."""

_WORD = 2**64 - 1


@dataclass(frozen=True)
class Strata:
    """Tables for one scale s.

    Attributes:
        rate: 1/2s², exact.
        width_bits: log2 of the width w.
        count: number of strata with tables; in these (2k + 1)w²/2s² < 16.
        lower, upper: uint64[count]; P[stratum ≤ i]·2⁶⁴ lies between entry i of both.
        stratum: uint8[2¹⁶]; of a uniform's first 16 bits. Means nothing where ``safe`` is 0.
        safe: uint16[2¹⁶]; a coin whose first 16 bits are below this accepts every integer of the
            cell's stratum. 0 where the 16 bits do not tell the stratum (and, harmlessly, where a
            stratum holds integers that are accepted with less than 2⁻¹⁶).
    """

    rate: Fraction
    width_bits: int
    count: int
    lower: NDArray[np.uint64]
    upper: NDArray[np.uint64]
    stratum: NDArray[np.uint8]
    safe: NDArray[np.uint16]

    def exponent(self, value: int, stratum: int) -> Fraction:
        """(y² − (kw)²)/2s²: an integer y of stratum k is accepted with exp of minus this."""
        corner = stratum << self.width_bits
        return self.rate * (value * value - corner * corner)

    def find(self, prefix: NDArray[np.uint64], stream: Stream) -> NDArray[np.int64]:
        """The strata of uniforms in [0, 1) whose first 64 bits are given; int64, exact."""
        passed, reached = _counts(self.lower, self.upper, prefix)
        found = passed.astype(np.int64)
        # Either the 64 bits touch a boundary's enclosure, or the uniform lies beyond the tables.
        for row in np.flatnonzero((passed != reached) | (passed == self.count)):
            uniform = LazyUniform(int(prefix[row]), 64, stream)
            k = int(passed[row])
            while not uniform.below(partial(_boundary, self.rate * 4**self.width_bits, k)):
                k += 1
            found[row] = k
        return found


def _boundary(rate: Fraction, k: int, bits: int) -> Enclosure:
    return boundaries(rate, k + 1, bits)[k]


def _counts(
    lower: NDArray[np.uint64], upper: NDArray[np.uint64], prefix: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """How many boundaries uniforms have surely passed, and how many they may have passed."""
    return np.searchsorted(upper, prefix, "left"), np.searchsorted(lower, prefix, "right")


@lru_cache(maxsize=32)
def strata_of(scale: Fraction) -> Strata:
    """The tables of a scale of 1/2 or more; a few milliseconds, then remembered."""
    width_bits = max(0, (scale.numerator // scale.denominator).bit_length() - 1 - WIDTH_SHIFT)
    rate = 1 / (2 * scale**2)
    coarse = rate * 4**width_bits  # w²/2s²
    count = 0
    while count < MOST_STRATA and (2 * count + 1) * coarse < LARGEST_EXPONENT:
        count += 1
    enclosed = boundaries(coarse, count, 64)
    # 2⁶⁴ is no uint64. A smaller lower end is still a lower end, and no word lies above 2⁶⁴ − 1.
    lower = np.array([min(low, _WORD) for low, _ in enclosed], dtype=np.uint64)
    upper = np.array([min(high, _WORD) for _, high in enclosed], dtype=np.uint64)

    first = np.arange(2**CELL_BITS, dtype=np.uint64) << np.uint64(64 - CELL_BITS)
    last = first | np.uint64(2 ** (64 - CELL_BITS) - 1)
    passed, _ = _counts(lower, upper, first)
    _, reached = _counts(lower, upper, last)
    clear = (passed == reached) & (passed < count)
    stratum = np.where(clear, passed, 0).astype(np.uint8)
    # The least weight in stratum k is that of −kw − w.
    least = [exp_minus((2 * k + 1) * coarse, CELL_BITS)[0] for k in range(count)]
    safe = np.where(clear, np.array(least, dtype=np.uint16)[stratum], 0).astype(np.uint16)
    return Strata(rate, width_bits, count, lower, upper, stratum, safe)
