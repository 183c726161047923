"""A private classifier from second moments: ridge regression whose sums are noisy.

Least squares needs Σ t tᵀ (shared by all classes) and Σ t ⊗ y alone, and both are sums of bounded
vectors. So the joint release that pays for a mean embedding also pays for a classifier, as in
sufficient-statistics perturbation (AdaSSP, arXiv 1803.02596). It names the class of a generated
image better than the condition it was drawn with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.features import PerceptualFeatures, PublicAxes, load_encoder, to_unit
from sfumato.methods.second_moments import SecondMoments


def labelled_layers(activations: Sequence[Tensor]) -> Tensor:
    """The layers a labeller looks at: all but the deepest, which is coarse in space."""
    return torch.cat(list(activations[:-1] or activations), dim=1)


class Labeller(nn.Module):
    """Names the class of generated images by the released least-squares classifier.

    ``weights`` float32 ``[k + 1, classes]`` act on the public coordinates of public features.
    """

    weights: Tensor

    def __init__(self, features: PerceptualFeatures, axes: PublicAxes, weights: Tensor) -> None:
        super().__init__()
        self.features, self.axes = features, axes
        self.register_buffer("weights", weights)

    def scores(self, activations: Sequence[Tensor]) -> Tensor:
        """Class scores ``[b, classes]``; differentiable."""
        block = SecondMoments(self.axes.axes.shape[1])
        return block.extend(self.axes(labelled_layers(activations))) @ self.weights

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Labels int64 ``[b]`` of images uint8 ``[b, c, h, w]``."""
        return self.scores(self.features.activations(to_unit(images))).argmax(dim=1)

    def tensors(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The labeller's arrays by name."""
        arrays = {"mean": self.axes.mean, "axes": self.axes.axes, "weights": self.weights}
        return {f"{prefix}{k}": array.cpu().contiguous().numpy() for k, array in arrays.items()}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        features = self.features
        return {
            "encoder": features.encoder.name,
            "layers": list(features.layers),
            "bound": features.bound,
            "scales": features.scales,
        }

    @classmethod
    def load(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Labeller:
        """Rebuild a labeller from what was saved."""
        encoder = load_encoder(config["encoder"])
        features = PerceptualFeatures(encoder, config["layers"], config["bound"], config["scales"])
        axes = PublicAxes(tensors["mean"], tensors["axes"], whitened=True)
        return cls(features, axes, tensors["weights"])
