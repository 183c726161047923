"""Least squares from one noisy sum: a private classifier on public features, without gradients.

Least squares needs Σ t tᵀ and Σ t ⊗ y of public coordinates t alone, and both are sums of bounded
vectors: one query ``sum`` pays for the classifier, as in sufficient-statistics perturbation
(AdaSSP, arXiv 1803.02596). DP-MEPF releases the same sums beside its embedding, because the
classifier names a generated image better than the condition it was sampled for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.features.shipped import LARGEST_SIZE, ShippedCoordinates, encoder_digest
from sfumato.methods.base import Method, check_rules, check_two_classes
from sfumato.methods.later import later
from sfumato.methods.public_model import note_digests
from sfumato.methods.second_moments import SecondMoments
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.features.pooled import PooledCoordinates
    from sfumato.methods.classifiers.ridge import LeastSquaresClassifier
    from sfumato.privacy import Curator

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
    model = later("sfumato.methods.classifiers.ridge:LeastSquaresClassifier")
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
        note_digests(self)

    def coordinates(self) -> PooledCoordinates | ShippedCoordinates:
        """The public coordinates that the classifier is linear in."""
        if self.public is None:
            return ShippedCoordinates(self.encoder, self.encoder_size, self.axes)
        from sfumato.features.pooled import PooledCoordinates

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
        known = coordinates or self.coordinates()
        block = SecondMoments(known.width)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            import torch

            from sfumato.devices import moved
            from sfumato.features import to_unit

            extended = block.extend(moved(known.loaded(), images.device)(to_unit(images)))
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
                    "encoder_digest": encoder_digest(),
                    # Axes of the user's images follow from the images, up to their last bits.
                    "axes_digest": "" if self.public_digest else known.digest,
                },
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        from sfumato.methods.estimate import reading

        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        return reading(query, spec)

    def fit(self, curator: Curator) -> LeastSquaresClassifier:
        """Ask once and solve."""
        from sfumato.devices import moved
        from sfumato.methods.classifiers.ridge import LeastSquaresClassifier

        curator.open(self)
        answer = curator.sum("moments")
        coordinates = moved(self.coordinates().loaded(), curator.device)
        return LeastSquaresClassifier(curator.spec, coordinates, answer, self.target_weight)
