"""A class-conditional Gaussian on basis coefficients, from noisy first and second moments."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RADIUS_SHARE = 0.43
"""Clip radius relative to √pixels, for pixels in [-½, ½]: few images of any kind exceed it."""

FLOOR = 1e-7


class MomentBlock:
    """The part of a contribution that holds z and zzᵀ, and its inverse from noisy sums.

    z is the image minus mid-grey in the basis, clipped to ``radius`` and divided by it; products
    off the diagonal carry √2, so that ‖vech(zzᵀ)‖ = ‖z‖² ≤ 1.

    Args:
        basis: orthonormal float32 ``[m, pixels]``.
        mean_weight: weight of z relative to the products.
    """

    def __init__(self, basis: NDArray[np.float32], mean_weight: float) -> None:
        self.basis = torch.from_numpy(basis)
        self.mean_weight = mean_weight
        self.size = len(basis)
        self.radius = RADIUS_SHARE * math.sqrt(basis.shape[1])
        self.rows, self.columns = torch.triu_indices(self.size, self.size)
        self.scale = torch.where(self.rows == self.columns, 1.0, math.sqrt(2))
        self.dimension = self.size + len(self.rows)
        self.norm = math.sqrt(mean_weight**2 + 1)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[b, c, h, w]`` → float ``[b, dimension]`` of L2 norm at most ``norm``."""
        z = (images.flatten(1).to(torch.float32) / 255 - 0.5) @ self.basis.T / self.radius
        z = z / z.norm(dim=1, keepdim=True).clamp(min=1)
        products = z[:, self.rows] * z[:, self.columns] * self.scale
        return torch.cat([z * self.mean_weight, products], dim=1)

    def fit(
        self, total: NDArray[np.float64], counts: NDArray[np.float64], noise_std: float
    ) -> Gaussians:
        """One Gaussian a class from noisy sums ``[classes, dimension]`` and class sizes."""
        means = total[:, : self.size] / self.mean_weight / counts[:, None]
        second = np.zeros((len(total), self.size, self.size))
        second[:, self.rows, self.columns] = total[:, self.size :] / self.scale.numpy()
        second += np.triu(second, 1).transpose(0, 2, 1)
        centred = second / counts[:, None, None] - means[:, :, None] * means[:, None, :]
        covariances = shrink(centred, noise_std / counts)
        values, vectors = np.linalg.eigh(covariances)
        roots = vectors * np.sqrt(np.clip(values, FLOOR, None))[:, None, :]
        scale = self.radius
        return Gaussians((means * scale).astype(np.float32), (roots * scale).astype(np.float32))


class Gaussians:
    """Means ``[classes, m]`` and covariance roots ``[classes, m, m]`` of basis coefficients."""

    def __init__(self, means: NDArray[np.float32], roots: NDArray[np.float32]) -> None:
        self.means, self.roots = means, roots

    def draw(self, labels: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
        """Flat images float ``[b, pixels]`` in [0, 1], one for each label."""
        normal = torch.randn(len(labels), self.means.shape[1], generator=generator)
        means, roots = torch.from_numpy(self.means), torch.from_numpy(self.roots)
        coefficients = means[labels] + torch.einsum("bij,bj->bi", roots[labels], normal)
        return (coefficients @ basis + 0.5).clamp(0, 1)


def shrink(
    covariances: NDArray[np.float64], noise_std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw noisy class covariances toward their mean, as far as the known noise explains them.

    In coordinates in which the mean covariance is the identity, each entry of a class's deviation
    is multiplied by signal / (signal + noise), with the signal's variance estimated over classes
    (a Wiener filter). Post-processing: only public noise levels and noisy covariances enter.

    Args:
        covariances: symmetric ``[classes, m, m]``.
        noise_std: standard deviation of the noise on each class's diagonal entries, ``[classes]``.

    Returns:
        symmetric positive semi-definite ``[classes, m, m]``.
    """
    classes, size, _ = covariances.shape
    precision = 1 / noise_std**2
    pooled = np.einsum("c,cij->ij", precision / precision.sum(), covariances)
    values, vectors = np.linalg.eigh(pooled)
    # The radius of a symmetric noise matrix, halved: smaller eigenvalues are noise.
    floor = 0.5 * math.sqrt(2 * size / precision.sum()) + FLOOR
    spread = np.sqrt(np.clip(values, floor, None))
    whiten, colour = vectors / spread, vectors * spread
    deviations = whiten.T @ covariances @ whiten - np.eye(size)
    noise = 0.5 * noise_std[:, None, None] ** 2 / (spread[:, None] * spread[None, :]) ** 2
    if classes > 1:
        signal = np.clip((deviations**2 - noise).mean(axis=0), 0, None)
        deviations *= signal / (signal + noise + 1e-30)
    inner, rotations = np.linalg.eigh(np.eye(size) + deviations)
    kept = (rotations * np.clip(inner, 0.02, None)[:, None, :]) @ rotations.transpose(0, 2, 1)
    result: NDArray[np.float64] = colour @ kept @ colour.T
    return result
