"""Least squares from one noisy sum: a private classifier on public features, without gradients.

Least squares needs Σ t tᵀ and Σ t ⊗ y of public coordinates t alone, and both are sums of bounded
vectors: one query ``sum`` pays for the classifier, as in sufficient-statistics perturbation
(AdaSSP, arXiv 1803.02596). DP-MEPF releases the same sums beside its embedding, because the
classifier names a generated image better than the condition it was sampled for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, moved
from sfumato.features import LARGEST_SIZE, PooledCoordinates, to_unit
from sfumato.methods.base import Classifier, Method, check_rules, check_two_classes, digest_of
from sfumato.methods.estimate import reading
from sfumato.methods.second_moments import SecondMoments
from sfumato.privacy import Answer, Curator, Query, SumQuery

BATCH = 250
MOST_AXES = 2000

CITATION = """\
@inproceedings{wang2018revisiting,
  title     = {Revisiting Differentially Private Linear Regression: Optimal and Adaptive Prediction
               \\& Estimation in Unbounded Domain},
  author    = {Wang, Yu-Xiang},
  booktitle = {Conference on Uncertainty in Artificial Intelligence},
  year      = {2018},
  note      = {arXiv:1803.02596}
}"""


class LeastSquaresClassifier(Classifier):
    """Ridge regression on public coordinates, held as the noisy answer that it is solved from.

    Args:
        spec: form and classes of the images.
        coordinates: the public coordinates t that the scores are linear in.
        answer: noisy Σ t by class, times ``target_weight``, and Σ of the products of t.
        target_weight: weight of the first in the release.
    """

    answer: Answer

    def __init__(
        self,
        spec: PublicSpec,
        coordinates: PooledCoordinates,
        answer: Answer,
        target_weight: float,
    ) -> None:
        block = SecondMoments(coordinates.width)
        if answer.total.shape != (len(spec.classes), block.width):
            raise ValueError("there must be a sum of the coordinates for each class")
        if answer.shared.shape != (block.pairs,):
            raise ValueError("there must be a sum of each product of two coordinates")
        if not (np.isfinite(answer.total).all() and np.isfinite(answer.shared).all()):
            raise ValueError("the sums must be finite numbers")
        if not (0 < answer.noise_std < math.inf and 0 < target_weight < math.inf):
            raise ValueError("the noise and the weight must be positive numbers")
        self.spec, self.coordinates, self.answer = spec, coordinates, answer
        self.target_weight = target_weight
        targets = answer.total / target_weight
        self.weights = block.solve(answer.shared, targets, answer.noise_std)
        self._block = block

    def move(self, device: torch.device) -> None:
        """Compute the coordinates on ``device`` from now on."""
        moved(self.coordinates, device)

    @torch.no_grad()
    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class scores ``[b, classes]``: least-squares estimates of the centred class indicator."""
        device = device_of(self.coordinates)
        parts = [np.zeros((0, len(self.spec.classes)), np.float32)]
        for part in torch.from_numpy(images).split(BATCH):
            extended = self._block.extend(self.coordinates(to_unit(part.to(device))))
            parts.append(extended.cpu().numpy() @ self.weights)
        return np.concatenate(parts)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The public axes and the noisy sums; the weights follow from them."""
        axes = {name: tensor.cpu().numpy() for name, tensor in self.coordinates.tensors().items()}
        return {**axes, "total": self.answer.total, "shared": self.answer.shared}

    def config(self) -> dict[str, Any]:
        """What loading needs besides the arrays."""
        return {
            **self.coordinates.config(),
            "axes_digest": self.coordinates.digest,
            "noise_std": self.answer.noise_std,
            "target_weight": self.target_weight,
        }

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> LeastSquaresClassifier:
        """Rebuild a classifier from what was saved."""
        if set(tensors) != {"mean", "axes", "total", "shared"}:
            raise ValueError("the tensors are not those of a least-squares classifier")
        if not tensors["total"].dtype == tensors["shared"].dtype == np.float64:
            raise ValueError("the sums must be float64 numbers")
        coordinates = PooledCoordinates.load(
            config, {name: torch.from_numpy(tensors[name]) for name in ("mean", "axes")}
        )
        answer = Answer(tensors["total"], tensors["shared"], float(config["noise_std"]))
        return cls(spec, coordinates, answer, float(config["target_weight"]))


@dataclass(frozen=True)
class LeastSquares(Method):
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

    name = "least-squares"
    title = "a linear classifier on public features, from one noisy sum"
    model = LeastSquaresClassifier
    card = (
        "It is linear in public features, and its file holds the noisy sums that its weights are "
        "solved from whenever it is opened."
    )
    citation = CITATION

    axes: int = 600
    encoder: str = "efficientnet-lite0"
    encoder_size: int = 64
    target_weight: float = 1.0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "axes": 1 <= self.axes <= MOST_AXES,
            "encoder_size": 32 <= self.encoder_size <= LARGEST_SIZE,
            "target_weight": 0 < self.target_weight < math.inf,
        }
        check_rules(self, rules)
        if self.public is not None and not self.public_digest:
            object.__setattr__(self, "public_digest", digest_of(self.public))

    def coordinates(self) -> PooledCoordinates:
        """The public coordinates that the classifier is linear in."""
        return PooledCoordinates.of(self.encoder, self.encoder_size, self.axes, self.public)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {
            "encoder": self.encoder,
            "encoder_size": self.encoder_size,
            "target_weight": self.target_weight,
        }

    def queries(
        self, spec: PublicSpec, coordinates: PooledCoordinates | None = None
    ) -> list[Query]:
        """One sum: Σ t by class, and Σ t tᵀ over all classes.

        Args:
            spec: public specification of the images.
            coordinates: those of a fitted model, where the public images that they were fitted on
                are not at hand; by default :meth:`coordinates`.

        Raises:
            UsageError: there are fewer than two classes.
        """
        check_two_classes(self.name, spec)
        coordinates = coordinates or self.coordinates()
        block = SecondMoments(coordinates.width)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            extended = block.extend(moved(coordinates, images.device)(to_unit(images)))
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
                    **self.config(),
                    "encoder_digest": coordinates.features.encoder.digest,
                    # Axes of the user's images follow from the images, up to their last bits.
                    "axes_digest": "" if self.public_digest else coordinates.digest,
                },
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        return reading(query, spec)

    def fit(self, curator: Curator) -> LeastSquaresClassifier:
        """Ask once and solve."""
        curator.open(self)
        answer = curator.sum("moments")
        coordinates = moved(self.coordinates(), curator.device)
        return LeastSquaresClassifier(curator.spec, coordinates, answer, self.target_weight)
