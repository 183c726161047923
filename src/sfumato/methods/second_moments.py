"""Second moments as vectors: the distinct products of a row with itself, and back to a matrix.

With Σ t by class they give ridge regression from noisy sums (AdaSSP, arXiv 1803.02596).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 0.6
"""Ridge relative to the spectral radius of the noise in Σ t tᵀ."""

LEAST_RIDGE = 1e-5
INTERCEPT = 0.3


class SymmetricProducts:
    """vech(z zᵀ) with √2 off the diagonal, so that its L2 norm is ‖z‖².

    The order is by diagonals that wrap around: (i, i), then (i, i + 1 mod n), and so on. One
    multiplication of strided views makes it, several times as fast as gathering pairs.

    Args:
        width: length n of z.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.pairs = width * (width + 1) // 2

    def __call__(self, rows: Tensor) -> Tensor:
        """Float ``[b, n]`` → ``[b, pairs]``; differentiable, and a row depends on its own alone."""
        import torch

        width, offsets = self.width, self.width // 2
        # The wrapped diagonal n/2 of an even n names each pair twice: half of it is wanted.
        partners = torch.cat([rows * math.sqrt(2), rows[:, :offsets] * math.sqrt(2)], dim=1)
        diagonals = partners.unfold(1, width, 1) * rows[:, None, :]
        flat = diagonals.flatten(1)[:, : self.pairs]
        flat[:, :width] = rows.square()
        return flat

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of each product in the matrix, ``[pairs]`` each."""
        at = np.arange(self.pairs)
        return at % self.width, (at + at // self.width) % self.width

    def matrix(self, products: NDArray[Any]) -> NDArray[np.float64]:
        """``[..., pairs]`` → the symmetric ``[..., n, n]`` that it was taken from."""
        rows, columns = self.places
        values = products / np.where(rows == columns, 1, math.sqrt(2))
        result = np.zeros((*products.shape[:-1], self.width, self.width))
        result[..., rows, columns] = result[..., columns, rows] = values
        return result


@dataclass(frozen=True)
class MomentShape:
    """Lengths and norms of the part of a contribution that holds z and zzᵀ.

    Args:
        size: length of z, whose norm is at most 1.
        mean_weight: weight of z relative to the products.
    """

    size: int
    mean_weight: float

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return self.size + SymmetricProducts(self.size).pairs

    @property
    def norm(self) -> float:
        """The largest L2 norm."""
        return math.sqrt(self.mean_weight**2 + 1)


class SecondMoments:
    """The two blocks of a contribution that a least-squares classifier needs.

    Args:
        size: length k of the coordinates t, of norm at most 1; an intercept is appended.
    """

    def __init__(self, size: int) -> None:
        self.width = size + 1
        self.products = SymmetricProducts(self.width)
        self.pairs = self.products.pairs

    def extend(self, coordinates: Tensor) -> Tensor:
        """t with its intercept, of norm at most 1."""
        import torch

        ones = coordinates.new_full((len(coordinates), 1), INTERCEPT)
        return torch.cat([coordinates, ones], dim=1) / math.sqrt(1 + INTERCEPT**2)

    def solve(
        self, products: NDArray[np.float64], targets: NDArray[np.float64], noise_std: float
    ) -> NDArray[np.float32]:
        """Ridge weights ``[k + 1, classes]`` from the noisy sums.

        Args:
            products: noisy Σ of what ``self.products`` makes of t, ``[pairs]``.
            targets: noisy Σ t by class, ``[classes, k + 1]``.
            noise_std: standard deviation of each noisy coordinate of ``products``.
        """
        values, vectors = np.linalg.eigh(self.products.matrix(products))
        values = np.clip(values, 0, None)
        # Weyl: the noise moves eigenvalues by at most about √2·σ·√k, whatever the data.
        ridge = RIDGE * noise_std * math.sqrt(self.width) + LEAST_RIDGE * values.sum()
        centred = targets - targets.mean(axis=0)
        weights: NDArray[np.float64] = vectors / (values + ridge) @ (vectors.T @ centred.T)
        return weights.astype(np.float32)
