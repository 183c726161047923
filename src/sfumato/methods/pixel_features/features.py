"""Public features of an image's pixels, each image's of L2 norm at most 1.

Random Fourier features (arXiv 2002.11603) and neural tangent features (arXiv 2303.01687).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sfumato.devices import CPU, random_on

GREY = 0.5


class Features(nn.Module, ABC):
    """A public map from an image's pixels to ``dimension`` numbers of L2 norm at most 1."""

    dimension: int

    @abstractmethod
    def rows(self, pixels: Tensor) -> Tensor:
        """Features float ``[b, dimension]`` of pixels float ``[b, d]`` in [0, 1]."""

    def means(self, pixels: Tensor) -> Tensor:
        """Means ``[groups, dimension]`` of the features of pixels ``[groups, b, d]``."""
        groups, size, _ = pixels.shape
        return self.rows(pixels.flatten(0, 1)).view(groups, size, -1).mean(dim=1)


class FourierFeatures(Features):
    """φ(x) = √(2/D)·[cos(ωx); sin(ωx)], of norm exactly 1; equation 3 of the paper.

    Args:
        pixels: length of x.
        dimension: D, an even number.
        length_scale: of the Gaussian kernel whose spectral density ω is sampled from.
        seed: public seed of ω.
    """

    frequencies: Tensor

    def __init__(self, pixels: int, dimension: int, length_scale: float, seed: int) -> None:
        super().__init__()
        self.dimension = dimension
        normal = torch.randn(pixels, dimension // 2, generator=random_on(CPU, seed))
        self.register_buffer("frequencies", normal / length_scale)

    def rows(self, pixels: Tensor) -> Tensor:
        """Features float ``[b, dimension]`` of pixels float ``[b, d]`` in [0, 1]."""
        angles = pixels @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) * math.sqrt(2 / self.dimension)


class TangentFeatures(Features):
    """φ(x) = ∇f(x) / ‖∇f(x)‖ for f(x) = Σ_k v_k·relu(⟨w_k, x⟩ + b_k), v_k = 1 and b_k = 0.

    The gradient by v is relu(Wx); by (w_k, b_k) it is [x; 1] where unit k is active, and 0
    elsewhere. x is the image minus mid-grey, each w_k a random unit vector of mean zero.

    Args:
        pixels: length of x.
        hidden: units of the hidden layer.
        seed: public seed of W.
    """

    weights: Tensor

    def __init__(self, pixels: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.dimension = hidden * (pixels + 2)
        weights = torch.randn(pixels, hidden, generator=random_on(CPU, seed))
        weights = weights - weights.mean(dim=0)
        self.register_buffer("weights", weights / weights.norm(dim=0))

    def _parts(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """relu(Wx), which units are active and [x; 1], the latter two's product being of norm 1."""
        x = pixels - GREY
        before = x @ self.weights
        above, active = before.relu(), (before > 0).to(x.dtype)
        extended = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        square = above.square().sum(-1) + active.sum(-1) * extended.square().sum(-1)
        # Where no unit is active the gradient is zero; so is the feature.
        norm = square.clamp(min=1e-12).sqrt().unsqueeze(-1)
        return above / norm, active, extended / norm

    def rows(self, pixels: Tensor) -> Tensor:
        """Features float ``[b, dimension]`` of pixels float ``[b, d]`` in [0, 1]."""
        above, active, extended = self._parts(pixels)
        return torch.cat([above, (active[:, :, None] * extended[:, None, :]).flatten(1)], dim=1)

    def means(self, pixels: Tensor) -> Tensor:
        """Means ``[groups, dimension]`` of pixels ``[groups, b, d]``, without a row an image."""
        above, active, extended = self._parts(pixels)
        products = active.transpose(1, 2) @ extended
        return torch.cat([above.mean(dim=1), products.flatten(1) / pixels.shape[1]], dim=1)
