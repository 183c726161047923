"""exp(−γ) in 32-bit fixed point with a proven error: it settles all but one coin in a million."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfumato.privacy.noise.strata import LARGEST_EXPONENT, Strata

ONE_BITS = 32

MARGIN = 2**11
"""The answer is less than this many units of 2⁻³² away from exp(−γ)·2³²: 1111 units at most."""

_ONE = np.uint64(2**ONE_BITS)
_X_BITS = 24
_DROP = np.uint64(25)
_RATE_BITS = 35
_DEGREE = 12
_SQUARINGS = LARGEST_EXPONENT.bit_length() - 1


def scaled_exponent(
    value: NDArray[np.int64], stratum: NDArray[np.int64], strata: Strata
) -> NDArray[np.uint64]:
    """γ/16 in units of 2⁻³², below the true value by less than 64 units.

    γ = d·e·rate with d = |y| − kw and e = |y| + kw. In strata with tables, d ≤ w and
    e ≤ (2k + 1)w ≤ 255w, so x = d/w and z = e/w with 24 bits behind the point have at most 25 and
    32 bits, and their product is below 2⁵⁶. γ < 16 keeps the second product below 2⁶².
    """
    b = strata.width_bits
    corner = stratum << b
    size = np.abs(value)
    x, z = (size - corner).view(np.uint64), (size + corner).view(np.uint64)
    if b <= _X_BITS:
        x, z = x << np.uint64(_X_BITS - b), z << np.uint64(_X_BITS - b)
    else:
        x, z = x >> np.uint64(b - _X_BITS), z >> np.uint64(b - _X_BITS)
    rate = np.uint64(int(strata.rate * 4**b * 2**_RATE_BITS))
    shift = 2 * _X_BITS - int(_DROP) + _RATE_BITS - (ONE_BITS - _SQUARINGS)
    result: NDArray[np.uint64] = ((x * z >> _DROP) * rate) >> np.uint64(shift)
    return result


def exp_minus_scaled(g: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """exp(−16·g/2³²)·2³² for 0 ≤ g < 2³², off by at most 87 units; below 2³².

    Horner's rule on the Taylor series to degree 12, then four squarings.
    """
    t = np.full_like(g, _ONE)
    for i in range(_DEGREE, 0, -1):
        # g < 2³² and t ≤ 2³², so g·t < 2⁶⁴ and t stays in 0 … 2³².
        t = _ONE - (g * t >> np.uint64(ONE_BITS)) // np.uint64(i)
    t = np.minimum(t, _ONE - np.uint64(1))  # so that t² < 2⁶⁴
    for _ in range(_SQUARINGS):
        t = t * t >> np.uint64(ONE_BITS)
    return t
