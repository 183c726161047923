"""Exact discrete Gaussian noise from operating-system entropy: the only noise in the package.

OpenDP samples the discrete Gaussian on the integers exactly, in rational arithmetic (Canonne,
Kamath, Steinke, arXiv 2004.00010), with keys from the operating system. Nobody can choose or see a
seed. ``docs/proofs.md`` ("Discrete Gaussian") shows that on a grid of variance τ² + 9 it is at
least as private as a continuous Gaussian of variance τ².
"""

from __future__ import annotations

import math

import numpy as np
import opendp.prelude as dp
from numpy.typing import NDArray

NOISE_PATH = "discrete Gaussian, exact, operating-system entropy (OpenDP)"
INSECURE_PATH = "NOT PRIVATE: noise from a known seed, for tests only"

SMOOTHING_VARIANCE = 9.0
"""Variance, in grid steps², that the comparison with a continuous Gaussian gives away."""


def add_noise(
    total: NDArray[np.int64], std: float, insecure_seed: int | None = None
) -> NDArray[np.int64]:
    """Add discrete Gaussian noise to integers; as private as a continuous Gaussian of ``std``.

    Args:
        total: int64 array of any shape, in grid steps.
        std: standard deviation τ in grid steps of the continuous Gaussian that privacy is
            claimed for; the noise drawn has variance τ² + 9.
        insecure_seed: draw from a known seed instead. Tests only: the answer is not private, and
            the curator stamps the release.

    Returns:
        int64 array of the same shape.
    """
    scale = math.sqrt(std**2 + SMOOTHING_VARIANCE)
    if insecure_seed is not None:
        rng = np.random.default_rng(insecure_seed)
        return total + np.rint(rng.normal(scale=scale, size=total.shape)).astype(np.int64)
    dp.enable_features("contrib")
    mechanism = dp.m.make_gaussian(
        dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64"), scale=scale
    )
    noisy = np.asarray(mechanism(total.reshape(-1).tolist()), dtype=np.int64)
    return noisy.reshape(total.shape)
