"""Distances between two sets of feature vectors: Fréchet and kernel, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sfumato.errors import DataError

Features = Float[np.ndarray, "n d"]
Others = Float[np.ndarray, "m d"]


def gaussian_frechet_distance(
    mean: Float[np.ndarray, " d"],
    covariance: Float[np.ndarray, "d d"],
    other_mean: Float[np.ndarray, " d"],
    other_covariance: Float[np.ndarray, "d d"],
) -> float:
    """Fréchet distance ‖m − m'‖² + tr(Σ + Σ' − 2(ΣΣ')^½) of two Gaussians (arXiv 1706.08500).

    tr(ΣΣ')^½ is the sum of the roots of the eigenvalues of Σ^½Σ'Σ^½, which is symmetric: unlike a
    general matrix root this stays real and finite when the covariances are singular. Negative
    eigenvalues are rounding and count as 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = root @ other_covariance @ root
    eigenvalues = np.linalg.eigvalsh((middle + middle.T) / 2)
    shift = mean - other_mean
    return float(
        shift @ shift
        + np.trace(covariance)
        + np.trace(other_covariance)
        - 2 * np.sqrt(eigenvalues.clip(0)).sum()
    )


def frechet_distance(features: Features, others: Others) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features (unbiased covariances).

    Raises:
        DataError: a set has fewer than two vectors.
    """
    if min(len(features), len(others)) < 2:
        raise DataError("A Fréchet distance needs at least 2 images on each side.")
    x, y = features.astype(np.float64), others.astype(np.float64)
    return gaussian_frechet_distance(
        x.mean(axis=0), np.atleast_2d(np.cov(x.T)), y.mean(axis=0), np.atleast_2d(np.cov(y.T))
    )


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation of the estimates over random subsets."""

    value: float
    deviation: float
    subsets: int
    subset_size: int


def squared_mmd(x: Features, y: Others) -> float:
    """Unbiased squared MMD under the kernel (x·y/d + 1)³ (arXiv 1801.01401, eq. 4).

    Zero in expectation when both sets have one distribution, so estimates may be negative.
    """
    n, m = len(x), len(y)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        base: np.ndarray = a @ b.T / a.shape[1] + 1
        return base * base * base

    within_x, within_y = kernel(x, x), kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
        + (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
        - 2 * kernel(x, y).mean()
    )


def kernel_distance(
    features: Features, others: Others, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Kernel distance (KID): the squared MMD averaged over random subsets without replacement.

    A set smaller than ``subset_size`` lowers it for both sides.

    Raises:
        DataError: a set has fewer than two vectors.
    """
    size = min(subset_size, len(features), len(others))
    if size < 2:
        raise DataError("A kernel distance needs at least 2 images on each side.")
    random = np.random.default_rng(seed)
    estimates = []
    for _ in range(subsets):
        x = features[random.choice(len(features), size, replace=False)]
        y = others[random.choice(len(others), size, replace=False)]
        estimates.append(squared_mmd(x.astype(np.float64), y.astype(np.float64)))
    return KernelDistance(float(np.mean(estimates)), float(np.std(estimates)), subsets, size)
