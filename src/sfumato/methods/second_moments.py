"""Second moments as vectors: the distinct products of a row with itself, and back to a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
        width, offsets = self.width, self.width // 2
        # The wrapped diagonal n/2 of an even n names each pair twice: half of it is wanted.
        partners = torch.cat([rows * math.sqrt(2), rows[:, :offsets] * math.sqrt(2)], dim=1)
        diagonals = partners.unfold(1, width, 1) * rows[:, None, :]
        flat = diagonals.flatten(1)[:, : self.pairs]
        flat[:, :width] = rows.square()
        return flat

    def matrix(self, products: NDArray[Any]) -> NDArray[np.float64]:
        """``[..., pairs]`` → the symmetric ``[..., n, n]`` that it was taken from."""
        at = np.arange(self.pairs)
        rows, columns = at % self.width, (at + at // self.width) % self.width
        values = products / np.where(rows == columns, 1, math.sqrt(2))
        result = np.zeros((*products.shape[:-1], self.width, self.width))
        result[..., rows, columns] = result[..., columns, rows] = values
        return result
