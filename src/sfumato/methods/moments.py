"""Moments, the yardstick: a class-conditional Gaussian on cosine coefficients from one sum.

Each image contributes its lowest DCT coefficients z, the products zzᵀ and a one; the noisy sums
give every class a mean, a covariance and a size, from which images are sampled. It shows how small
a method on an existing query is, and no method that loses to it in both accuracy and looks is worth
its complexity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved
from sfumato.features.basis import dct_basis
from sfumato.methods.base import Method, check_rules
from sfumato.methods.estimate import reading
from sfumato.methods.gaussian import Gaussians, MomentBlock, loaded_gaussians
from sfumato.methods.model import ImageModel
from sfumato.methods.saved_arrays import checked_counts
from sfumato.networks import Random
from sfumato.privacy import Answer, Curator, Query, SumQuery


@dataclass(frozen=True)
class MomentModel(ImageModel):
    """The fitted Gaussians; ``counts`` are the noisy class sizes."""

    at_once: ClassVar[int] = 1000

    spec: PublicSpec
    counts: NDArray[np.float64]
    gaussians: Gaussians
    coefficients: int

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The Gaussians."""
        return (self.gaussians,)

    @cached_property
    def _basis(self) -> Tensor:
        return torch.from_numpy(dct_basis(self.spec, self.coefficients))

    def draw(self, labels: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """Images sampled from the Gaussians, and the labels as they are."""
        flat = self.gaussians.draw(labels, self._basis.to(labels.device), random)
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        return (flat * 255).round().to(torch.uint8).view(-1, *shape), labels

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        return {"counts": self.counts, **self.gaussians.tensors()}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"coefficients": self.coefficients}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> MomentModel:
        """Rebuild a model from what was saved."""
        counts, gaussians = checked_counts(tensors["counts"], spec), loaded_gaussians(tensors)
        stated = len(counts), config["coefficients"]
        if gaussians.means.shape != stated or stated[1] > spec.channels * spec.height * spec.width:
            raise ValueError("the tensors are not those of the stated Gaussians")
        return cls(spec, counts, gaussians, gaussians.means.shape[1])


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
    model = MomentModel

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
        return {"coefficients": self._block(spec).size}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum of [1; z; zzᵀ] by class."""
        block = self._block(spec)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            moments = moved(block, images.device)(images)
            ones = moments.new_full((len(images), 1), self.count_weight)
            return torch.cat([ones, moments], dim=1)

        norm = math.hypot(self.count_weight, block.norm)
        dimension, describes = 1 + block.dimension, {**self.config(), "coefficients": block.size}
        return [
            SumQuery("moments", contribution, dimension, norm, by_class=True, describes=describes)
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        return reading(query, spec)

    def fit(self, curator: Curator) -> MomentModel:
        """Ask once, then fit a Gaussian to each class."""
        curator.open(self)
        return self.learn(curator.sum("moments"), curator.spec)

    def learn(self, answer: Answer, spec: PublicSpec) -> MomentModel:
        """Fit a Gaussian to each class of a noisy answer, at no privacy cost."""
        counts = np.maximum(answer.total[:, 0] / self.count_weight, 1.0)
        block = self._block(spec)
        gaussians = block.fit(answer.total[:, 1:], counts, answer.noise_std)
        return MomentModel(spec, counts, gaussians, block.size)

    def _block(self, spec: PublicSpec) -> MomentBlock:
        coefficients = self.coefficients or (100 if spec.channels == 1 else 150)
        return MomentBlock(dct_basis(spec, coefficients), self.mean_weight)
