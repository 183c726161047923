"""Least squares from two noisy sums: a private classifier on public features, without gradients.

Least squares needs Σ t tᵀ and Σ t ⊗ y of public coordinates t alone, and both are sums of bounded
vectors: one query ``sum`` pays for the classifier, as in sufficient-statistics perturbation
(AdaSSP, arXiv 1803.02596). DP-MEPF releases the same sums beside its embedding, because the
classifier names a generated image better than the condition it was sampled for.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features import PooledCoordinates, to_unit
from sfumato.methods.mepf.labeller import SecondMoments
from sfumato.privacy import Curator, Query, SumQuery


@runtime_checkable
class Coordinates(Protocol):
    """Public coordinates of an image, of norm at most 1, that can be saved."""

    @property
    def width(self) -> int:
        """Their number."""

    def __call__(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] → ``[b, width]``, each row from its own image."""

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save."""

    def config(self) -> dict[str, Any]:
        """Everything else to save, as plain JSON values."""


class LeastSquaresClassifier(nn.Module):
    """A released classifier: ``weights`` float32 ``[k + 1, classes]`` on public coordinates."""

    weights: Tensor

    def __init__(self, coordinates: Coordinates, weights: Tensor) -> None:
        super().__init__()
        if weights.ndim != 2 or len(weights) != coordinates.width + 1:
            raise ValueError("there must be one row of weights for each coordinate")
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
        """The classifier's arrays by name."""
        arrays = {**self.coordinates.tensors(), "weights": self.weights}
        return {f"{prefix}{k}": array.cpu().contiguous().numpy() for k, array in arrays.items()}

    def config(self) -> dict[str, Any]:
        """What loading needs besides the arrays."""
        return self.coordinates.config()

    @classmethod
    def load(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> LeastSquaresClassifier:
        """Rebuild a classifier of pooled features from what was saved; raises ValueError."""
        return cls(PooledCoordinates.load(config, tensors), tensors["weights"])


@dataclass(frozen=True)
class LeastSquares:
    """A private classifier from one sum over public features (AdaSSP, arXiv 1803.02596).

    Args:
        axes: number of public axes.
        encoder: name of the public encoder.
        encoder_size: side in pixels that images are enlarged to before they enter the encoder.
        target_weight: weight of Σ t ⊗ y beside Σ t tᵀ in the release.
        public: uint8 ``[n, c, h, w]`` public images to fit the axes on; by default the axes ship
            with the package, fitted on Tiny ImageNet.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name: ClassVar[str] = "least-squares"

    axes: int = 600
    encoder: str = "efficientnet-lite0"
    encoder_size: int = 64
    target_weight: float = 1.0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "axes": self.axes >= 1,
            "encoder_size": 32 <= self.encoder_size <= 512,
            "target_weight": self.target_weight > 0,
        }
        for option, holds in rules.items():
            if not holds:
                value = getattr(self, option)
                raise UsageError(f"{self.name}: {option}={value!r} is outside its rule.")
        if self.public is not None and not self.public_digest:
            digest = hashlib.sha256(np.ascontiguousarray(self.public).tobytes()).hexdigest()
            object.__setattr__(self, "public_digest", digest)

    def config(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "public"}

    def coordinates(self) -> PooledCoordinates:
        """The public coordinates that the classifier is linear in."""
        return PooledCoordinates.of(self.encoder, self.encoder_size, self.axes, self.public)

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum: Σ t by class, and Σ t tᵀ over all classes.

        Raises:
            UsageError: there are fewer than two classes.
        """
        if len(spec.classes) < 2:
            raise UsageError(f"{self.name}: a classifier needs two classes or more.")
        coordinates = self.coordinates()
        block = SecondMoments(coordinates.width)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            extended = block.extend(coordinates.to(images.device)(to_unit(images)))
            return torch.cat([extended * self.target_weight, block.products(extended)], dim=1)

        return [
            SumQuery(
                "moments",
                contribution,
                block.width + block.pairs,
                math.hypot(self.target_weight, 1.0),
                by_class=True,
                shared=block.pairs,
                describes={
                    "encoder": self.encoder,
                    "encoder_digest": coordinates.features.encoder.digest,
                    "axes_digest": coordinates.shipped,
                },
            )
        ]

    def fit(self, curator: Curator) -> LeastSquaresClassifier:
        """Ask once and solve."""
        curator.open(self)
        answer = curator.sum("moments")
        coordinates = self.coordinates()
        weights = SecondMoments(coordinates.width).solve(
            answer.shared, answer.total / self.target_weight, answer.noise_std
        )
        return LeastSquaresClassifier(coordinates, torch.from_numpy(weights))
