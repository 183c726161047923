"""DP-NTK: a generator matched to one noisy mean of neural tangent features of pixels.

Yang, Adamczewski, Sutherland, Li, Park, arXiv 2303.01687. An image's features are the gradient of a
public network's output at that image (the empirical neural tangent kernel's feature map), scaled to
norm 1. The network here has one hidden layer with random weights, so nothing public is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, random_on
from sfumato.methods.base import check_rules
from sfumato.methods.feature_matching import FeatureMatching, Features

GREY = 0.5


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


CITATION = """\
@article{yang2023dpntk,
  title   = {Differentially Private Neural Tangent Kernels for Privacy-Preserving Data Generation},
  author  = {Yang, Yilin and Adamczewski, Kamil and Sutherland, Danica J. and Li, Xiaoxiao and
             Park, Mijung},
  journal = {Journal of Artificial Intelligence Research},
  year    = {2024},
  note    = {arXiv:2303.01687}
}"""


@dataclass(frozen=True)
class DPNTK(FeatureMatching):
    """Match a generator to a noisy mean of neural tangent features of pixels.

    Args:
        hidden: hidden units of the public random network.

    The other options are those of :class:`FeatureMatching`.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "ntk"
    title = "DP-NTK: a generator matched to one noisy mean of neural tangent features"
    citation = CITATION

    hidden: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rules(self, {"hidden": self.hidden >= 1})

    def features(self, spec: PublicSpec) -> TangentFeatures:
        """Tangent features of images of ``spec``."""
        pixels = spec.channels * spec.height * spec.width
        return TangentFeatures(pixels, self.hidden, self.seed_public)
