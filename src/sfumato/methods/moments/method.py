"""Moments, the yardstick: a class-conditional Gaussian on cosine coefficients from one sum.

Each image contributes its lowest DCT coefficients z, the products zzᵀ and a one; the noisy sums
give every class a mean, a covariance and a size, from which images are sampled. It shows how small
a method on an existing query is, and no method that loses to it in both accuracy and looks is worth
its complexity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Method, check_rules
from sfumato.methods.later import later
from sfumato.methods.second_moments import MomentShape
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.methods.gaussian import MomentBlock
    from sfumato.methods.moments.model import MomentModel
    from sfumato.privacy import Answer, Curator


@dataclass(frozen=True)
class Moments(Method):
    """Release per class the first two moments of DCT coefficients and sample from the Gaussian.

    Args:
        coefficients: DCT coefficients per image; None takes 100 for grey, 150 for colour.
        mean_weight: weight of z in the joint contribution, relative to the products.
        count_weight: weight of the one that gives the noisy class sizes.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "moments"
    title = "a Gaussian for each class on cosine coefficients, from one noisy sum; the yardstick"
    model = later("sfumato.methods.moments.model:MomentModel")

    coefficients: int | None = None
    mean_weight: float = 0.4
    count_weight: float = 0.1

    def __post_init__(self) -> None:
        rules = {
            "coefficients": self.coefficients is None or self.coefficients >= 1,
            "mean_weight": self.mean_weight > 0,
            "count_weight": self.count_weight > 0,
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"coefficients": self._shape(spec).size}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum of [1; z; zzᵀ] by class."""
        shape, made = self._shape(spec), cache(lambda: self._block(spec))

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            import torch

            from sfumato.devices import moved

            moments = moved(made(), images.device)(images)
            ones = moments.new_full((len(images), 1), self.count_weight)
            return torch.cat([ones, moments], dim=1)

        norm = math.hypot(self.count_weight, shape.norm)
        dimension, describes = 1 + shape.dimension, {**self.config(), "coefficients": shape.size}
        return [
            SumQuery("moments", contribution, dimension, norm, by_class=True, describes=describes)
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        from sfumato.methods.estimate import reading

        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        return reading(query, spec)

    def fit(self, curator: Curator) -> MomentModel:
        """Ask once, then fit a Gaussian to each class."""
        curator.open(self)
        return self.learn(curator.sum("moments"), curator.spec)

    def learn(self, answer: Answer, spec: PublicSpec) -> MomentModel:
        """Fit a Gaussian to each class of a noisy answer, at no privacy cost."""
        from sfumato.methods.moments.model import MomentModel

        counts = np.maximum(answer.total[:, 0] / self.count_weight, 1.0)
        block = self._block(spec)
        gaussians = block.fit(answer.total[:, 1:], counts, answer.noise_std)
        return MomentModel(spec, counts, gaussians, block.size)

    def _coefficients(self, spec: PublicSpec) -> int:
        return self.coefficients or (100 if spec.channels == 1 else 150)

    def _shape(self, spec: PublicSpec) -> MomentShape:
        pixels = spec.channels * spec.height * spec.width
        return MomentShape(min(self._coefficients(spec), pixels), self.mean_weight)

    def _block(self, spec: PublicSpec) -> MomentBlock:
        from sfumato.features.basis import dct_basis
        from sfumato.methods.gaussian import MomentBlock

        return MomentBlock(dct_basis(spec, self._coefficients(spec)), self.mean_weight)
