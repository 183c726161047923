"""Exact discrete Gaussian noise from operating-system entropy: the only noise in the package.

OpenDP samples the discrete Gaussian on the integers exactly, in rational arithmetic (Canonne,
Kamath, Steinke, arXiv 2004.00010), with keys from the operating system. Nobody can choose or see a
seed. ``docs/proofs.md`` ("Discrete Gaussian") shows that with variance τ² + 9 or more it is at
least as private as a continuous Gaussian of variance τ².
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import opendp.prelude as dp
from numpy.typing import NDArray

from sfumato.errors import SfumatoError

NOISE_PATH = "discrete Gaussian, exact, operating-system entropy (OpenDP)"
INSECURE_PATH = "NOT PRIVATE: noise from a known seed, for tests only"

SMOOTHING_VARIANCE = 9
"""Variance, in grid steps², that the comparison with a continuous Gaussian gives away."""

LARGEST_STD = 2.0**50


def whole_scale(std: float) -> int:
    """The smallest integer s with s² ≥ std² + 9, in exact arithmetic: never rounded down."""
    variance = math.ceil(Fraction(std) ** 2) + SMOOTHING_VARIANCE
    return math.isqrt(variance - 1) + 1


def add_noise(
    total: NDArray[np.int64], std: float, insecure_seed: int | None = None
) -> NDArray[np.int64]:
    """Add discrete Gaussian noise to integers; as private as a continuous Gaussian of ``std``.

    Args:
        total: int64 array of any shape, in grid steps.
        std: standard deviation τ in grid steps of the continuous Gaussian that privacy is
            claimed for. The noise drawn has the smallest whole scale s with s² ≥ τ² + 9.
        insecure_seed: draw from a known seed instead. Tests only: the answer is not private, and
            the curator stamps the release.

    Returns:
        int64 array of the same shape.

    Raises:
        SfumatoError: ``std`` is no positive number, or so large that an int64 could overflow.
    """
    if not 0 < std < LARGEST_STD:
        raise SfumatoError(f"std={std} must lie in (0, 2**50) grid steps. Nothing was answered.")
    scale = whole_scale(std)
    if insecure_seed is not None:
        rng = np.random.default_rng(insecure_seed)
        return total + np.rint(rng.normal(scale=scale, size=total.shape)).astype(np.int64)
    dp.enable_features("contrib")
    mechanism = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64"), scale=float(scale)
    )
    noisy = np.asarray(mechanism(total.reshape(-1).tolist()), dtype=np.int64)
    return noisy.reshape(total.shape)
