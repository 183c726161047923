"""A private classifier from second moments: ridge regression whose sums are noisy.

Least squares needs Σ t tᵀ (shared by all classes) and Σ t ⊗ y alone, and both are sums of bounded
vectors. So the joint release that pays for a mean embedding also pays for a classifier, as in
sufficient-statistics perturbation (AdaSSP, arXiv 1803.02596). It names the class of a generated
image better than the condition it was drawn with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.features import (
    PerceptualFeatures,
    PooledCoordinates,
    PublicAxes,
    load_encoder,
    to_unit,
)
from sfumato.methods.mepf.blocks import labelled_layers
from sfumato.methods.second_moments import SecondMoments


class LayerCoordinates(nn.Module):
    """Public coordinates t of an image as it is: layers along whitened axes, of norm at most 1."""

    def __init__(self, features: PerceptualFeatures, axes: PublicAxes) -> None:
        super().__init__()
        self.features, self.axes = features, axes

    @classmethod
    def fit(
        cls, features: PerceptualFeatures, activations: Sequence[Tensor], count: int
    ) -> LayerCoordinates:
        """Along the main axes of public images, of which these are the activations."""
        joint = torch.cat(labelled_layers(activations), dim=1)
        return cls(features, PublicAxes.fit(joint, min(count, joint.shape[1]), whiten=True))

    @property
    def width(self) -> int:
        """Length of t."""
        return self.axes.axes.shape[1]

    def along(self, activations: Sequence[Tensor]) -> Tensor:
        """t of images of which these are the activations, ``[b, width]``."""
        coordinates: Tensor = self.axes(torch.cat(labelled_layers(activations), dim=1))
        return coordinates

    def forward(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] → ``[b, width]``; differentiable."""
        return self.along(self.features.activations(images))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that :meth:`load` needs."""
        return {"mean": self.axes.mean, "axes": self.axes.axes}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides them."""
        features = self.features
        return {
            "encoder": features.encoder.name,
            "layers": list(features.layers),
            "bound": features.bound,
            "scales": features.scales,
        }

    @classmethod
    def load(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> LayerCoordinates:
        """Rebuild coordinates from what was saved."""
        encoder = load_encoder(config["encoder"])
        features = PerceptualFeatures(encoder, config["layers"], config["bound"], config["scales"])
        return cls(features, PublicAxes(tensors["mean"], tensors["axes"], whitened=True))


Coordinates: TypeAlias = "LayerCoordinates | PooledCoordinates"


class Labeller(nn.Module):
    """Names the class of generated images by the released least-squares classifier.

    ``weights`` float32 ``[k + 1, classes]`` act on the public coordinates and an intercept.
    """

    weights: Tensor

    def __init__(self, coordinates: Coordinates, weights: Tensor) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.register_buffer("weights", weights)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores ``[b, classes]`` of float images in [0, 1]; differentiable."""
        block = SecondMoments(self.coordinates.width)
        return block.extend(self.coordinates(images)) @ self.weights

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Labels int64 ``[b]`` of images uint8 ``[b, c, h, w]``."""
        return self.scores(to_unit(images)).argmax(dim=1)

    def tensors(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The labeller's arrays by name."""
        arrays = {**self.coordinates.tensors(), "weights": self.weights}
        return {f"{prefix}{k}": array.cpu().contiguous().numpy() for k, array in arrays.items()}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        if isinstance(self.coordinates, PooledCoordinates):
            return {**self.coordinates.config(), "axes_digest": self.coordinates.digest}
        return self.coordinates.config()

    @classmethod
    def load(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Labeller:
        """Rebuild a labeller from what was saved.

        Raises:
            ValueError: the arrays do not belong together.
        """
        weights = tensors["weights"]
        if "encoder_size" not in config:
            return cls(LayerCoordinates.load(config, tensors), weights)
        pooled = PooledCoordinates.load(config, tensors)
        if weights.ndim != 2 or len(weights) != pooled.width + 1:
            raise ValueError("there must be a weight for each axis and the intercept")
        return cls(pooled, weights)
