"""Match a generator to a noisy mean of features of pixels: what DP-MERF and DP-NTK share.

One noisy sum by class is released; the generator is trained on it alone, so its steps cost
nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Method, check_rules
from sfumato.methods.later import later
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.methods.model import GeneratorModel
    from sfumato.methods.pixel_features.features import Features
    from sfumato.privacy import Curator

AFTERWARDS = frozenset("steps batch learning_rate width latent average".split())
"""Settings of the generator's training, which may change after the sum was paid for."""


@dataclass(frozen=True)
class FeatureMatching(Method, ABC):
    """What the methods below it have in common: their options, their query and their training.

    Args:
        steps: generator steps.
        batch: generated images a step, over all classes.
        learning_rate: of Adam, β = (0.5, 0.999), with warm-up and cosine decay.
        count_weight: weight of the one that gives noisy class sizes.
        width: channels of the generator's finest level, a multiple of 4.
        latent: dimension of the generator's noise.
        average: decay of the running average of the generator that is released.
        seed_public: public seed of features and generator; privacy noise has none.
    """

    model = later("sfumato.methods.model:GeneratorModel")

    steps: int = 1000
    batch: int = 200
    learning_rate: float = 1e-3
    count_weight: float = 0.1
    width: int = 24
    latent: int = 64
    average: float = 0.99
    seed_public: int = 0

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 2,
            "learning_rate": self.learning_rate > 0,
            "count_weight": self.count_weight > 0,
            "width": self.width >= 4 and self.width % 4 == 0,
            "latent": self.latent >= 1,
            "average": 0 <= self.average < 1,
        }
        check_rules(self, rules)

    @abstractmethod
    def dimension(self, spec: PublicSpec) -> int:
        """The number of features of images of ``spec``."""

    @abstractmethod
    def features(self, spec: PublicSpec) -> Features:
        """The public features of images of ``spec``."""

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum of [count_weight; features] by class."""
        made = cache(lambda: self.features(spec))

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            import torch

            from sfumato.devices import moved

            rows = moved(made(), images.device).rows(images.flatten(1).float() / 255)
            ones = rows.new_full((len(images), 1), self.count_weight)
            return torch.cat([ones, rows], dim=1)

        norm = math.hypot(self.count_weight, 1.0)
        asked = {key: value for key, value in self.config().items() if key not in AFTERWARDS}
        return [
            SumQuery(
                "embedding",
                contribution,
                1 + self.dimension(spec),
                norm,
                by_class=True,
                describes={"features": self.name, **asked},
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        from sfumato.methods.estimate import reading, seconds_of
        from sfumato.methods.pixel_features.matching import Matching
        from sfumato.privacy import Answer

        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        classes = max(len(spec.classes), 1)
        zero = Answer(np.ones((classes, query.dimension)), np.zeros(0), 1.0)
        matching = Matching(self, spec, zero)
        minutes = seconds_of(lambda: matching.advance(0)) * self.steps / 60
        training = f"{minutes:.0f} minutes for {self.steps:,} steps"
        return {**reading(query, spec), "training_time": training}

    def fit(self, curator: Curator) -> GeneratorModel:
        """Ask once, then train; a killed run goes on from its checkpoint with the same answer."""
        from sfumato.methods.pixel_features.matching import Matching
        from sfumato.methods.training import Session

        curator.open(self)
        answer = curator.sum("embedding")
        return Matching(self, curator.spec, answer, Session.of(curator)).run()
