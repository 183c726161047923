"""Noise for integers: the one theorem, and the one function, behind every answer.

Each query adds up integer vectors of bounded norm and hands the sum to :func:`add_noise`.
``docs/proofs/integer-gaussian.md`` shows that the exact discrete Gaussian of variance τ² + 9 is at
least as private as a continuous Gaussian of variance τ², and that it stays so under sampling and
composition. (Canonne, Kamath, Steinke, arXiv 2004.00010, introduced it.)
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import SfumatoError
from sfumato.privacy.noise.discrete_gaussian import sample
from sfumato.privacy.noise.entropy import Stream

NOISE_PATH = "discrete Gaussian on integers, exact, operating-system entropy (ChaCha20)"
INSECURE_PATH = "NOT PRIVATE: noise from a known seed, for tests only"

SMOOTHING_VARIANCE = 9
"""Variance, in grid steps², that the comparison with a continuous Gaussian gives away."""

LARGEST_STD = 2.0**50


def whole_scale(std: float) -> int:
    """The smallest integer s with s² ≥ std² + 9, in exact arithmetic: never rounded down."""
    variance = math.ceil(Fraction(std) ** 2) + SMOOTHING_VARIANCE
    return math.isqrt(variance - 1) + 1


def add_noise(total: NDArray[np.int64], std: float, stream: Stream) -> NDArray[np.int64]:
    """Add discrete Gaussian noise to integers; as private as a continuous Gaussian of ``std``.

    Args:
        total: int64 array of any shape, in grid steps, each below 2⁶² in size.
        std: standard deviation τ in grid steps of the continuous Gaussian that privacy is
            claimed for. The noise sampled has the smallest whole scale s with s² ≥ τ² + 9.
        stream: ``fresh_stream()``, one for each answer; a known one makes the answer not private.

    Returns:
        int64 array of the same shape.

    Raises:
        SfumatoError: ``std`` is no positive number, or so large that an int64 could overflow.
    """
    if not 0 < std < LARGEST_STD:
        raise SfumatoError(f"std={std} must lie in (0, 2**50) grid steps. Nothing was answered.")
    return total + sample(whole_scale(std), total.size, stream).reshape(total.shape)
