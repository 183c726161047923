"""A class-conditional Gaussian on basis coefficients, from noisy first and second moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.methods.second_moments import SymmetricProducts
from sfumato.methods.shrinkage import bands, shrunk
from sfumato.networks import Random, normal

RADIUS_SHARE = 0.43
"""Clip radius relative to √pixels, for pixels in [-½, ½]: few images of any kind exceed it."""

FLOOR = 1e-7


class MomentBlock(nn.Module):
    """The part of a contribution that holds z and zzᵀ, and its inverse from noisy sums.

    z is the image minus mid-grey in the basis, clipped to ``radius`` and divided by it, so that
    ‖vech(zzᵀ)‖ = ‖z‖² ≤ 1.

    Args:
        basis: orthonormal float32 ``[m, pixels]``.
        mean_weight: weight of z relative to the products.
    """

    basis: Tensor

    def __init__(self, basis: NDArray[np.float32], mean_weight: float) -> None:
        super().__init__()
        self.register_buffer("basis", torch.from_numpy(basis))
        self.mean_weight = mean_weight
        self.size = len(basis)
        self.radius = RADIUS_SHARE * math.sqrt(basis.shape[1])
        self.products = SymmetricProducts(self.size)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 ``[b, c, h, w]`` → float ``[b, dimension]`` of the :class:`MomentShape`."""
        z = (images.flatten(1).to(torch.float32) / 255 - 0.5) @ self.basis.T / self.radius
        z = z / z.norm(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([z * self.mean_weight, self.products(z)], dim=1)

    def fit(
        self,
        total: NDArray[np.float64],
        counts: NDArray[np.float64],
        noise_std: float,
        shrink_moments: bool = True,
    ) -> Gaussians:
        """One Gaussian a class from noisy sums ``[classes, dimension]`` and class sizes.

        Args:
            noise_std: of a coordinate of the sums.
            shrink_moments: take from the moments what noise explains, band by band of the basis,
                before a covariance is made of them; false is what sfumato 0.1.0 did.
        """
        noise = noise_std / counts
        means = total[:, : self.size] / self.mean_weight / counts[:, None]
        second = self.products.matrix(total[:, self.size :] / counts[:, None])
        centred = second - means[:, :, None] * means[:, None, :]
        if shrink_moments:
            found, (rows, columns) = bands(self.size), self.products.places
            means = shrunk(means, (noise / self.mean_weight) ** 2, found).values
            outer = np.maximum(rows, columns)
            shells = [np.flatnonzero((outer >= b.start) & (outer < b.stop)) for b in found]
            flat = centred[:, rows, columns] * np.where(rows == columns, 1, math.sqrt(2))
            moments = shrunk(flat, noise**2, shells)
            centred, noise = self.products.matrix(moments.values), np.sqrt(moments.variances)
        covariances = shrink(centred, noise)
        values, vectors = np.linalg.eigh(covariances)
        roots = vectors * np.sqrt(np.clip(values, FLOOR, None))[:, None, :]
        scale = self.radius
        return Gaussians((means * scale).astype(np.float32), (roots * scale).astype(np.float32))


class Gaussians(nn.Module):
    """Means ``[classes, m]`` and covariance roots ``[classes, m, m]`` of basis coefficients."""

    means: Tensor
    roots: Tensor

    def __init__(self, means: NDArray[np.float32], roots: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("means", torch.from_numpy(means), persistent=False)
        self.register_buffer("roots", torch.from_numpy(roots), persistent=False)

    def draw(self, labels: Tensor, basis: Tensor, random: Random) -> Tensor:
        """Flat images float ``[b, pixels]`` in [0, 1], one for each label."""
        sampled = normal(random, (len(labels), self.means.shape[1]))
        coefficients = self.means[labels] + torch.einsum("bij,bj->bi", self.roots[labels], sampled)
        return (coefficients @ basis + 0.5).clamp(0, 1)

    def tensors(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The arrays that :func:`loaded_gaussians` reads."""
        return {
            f"{prefix}means": self.means.cpu().numpy(),
            f"{prefix}roots": self.roots.cpu().numpy(),
        }


def loaded_gaussians(tensors: Mapping[str, NDArray[Any]], prefix: str = "") -> Gaussians:
    """Gaussians from saved arrays; raises ValueError where their shapes or dtypes do not fit."""
    means, roots = tensors[f"{prefix}means"], tensors[f"{prefix}roots"]
    fits = means.ndim == 2 and roots.shape == (*means.shape, means.shape[1])
    if not fits or means.dtype != np.float32 or roots.dtype != np.float32:
        raise ValueError("the arrays are no means and covariance roots")
    return Gaussians(means, roots)


def shrink(covariances: NDArray[np.float64], noise_std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrink the eigenvalues of noisy covariances by what the known noise explains of them.

    Symmetric noise of entry deviation s/√2 has spectral radius ρ = s·√(2m). An eigenvalue e above
    2ρ loses the bias ρ²/e that noise adds to it (the spiked-model correction); smaller ones are
    mostly noise and keep 30 %. Post-processing: only public noise levels and noisy values enter.

    Args:
        covariances: symmetric ``[classes, m, m]``.
        noise_std: s, standard deviation of the noise on each class's diagonal entries,
            ``[classes]``.

    Returns:
        symmetric positive semi-definite ``[classes, m, m]``.
    """
    size = covariances.shape[1]
    radius = (noise_std * math.sqrt(2 * size))[:, None]
    values, vectors = np.linalg.eigh(covariances)
    above = values > 2 * radius
    corrected = values - radius**2 / np.where(above, values, 1.0)
    kept = np.where(above, corrected, 0.3 * np.clip(values, 0, None))
    result: NDArray[np.float64] = (vectors * kept[:, None, :]) @ vectors.transpose(0, 2, 1)
    return result
