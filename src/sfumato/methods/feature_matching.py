"""Match a generator to a noisy mean of features of pixels: what DP-MERF and DP-NTK share.

One noisy sum by class is released; the generator is trained on it alone, so its steps cost
nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved, random_on
from sfumato.methods.base import Method, check_rules
from sfumato.methods.estimate import reading, seconds_of
from sfumato.methods.mean_matching import BETAS, LARGEST_GRADIENT, MovingMean, warm_up_and_cosine
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session, Training
from sfumato.networks import Average
from sfumato.privacy import Answer, Curator, Query, SumQuery

MEMORY = 0.9
"""Decay of the running average of generated means."""

AFTERWARDS = frozenset("steps batch learning_rate width latent average".split())
"""Settings of the generator's training, which may change after the sum was paid for."""


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

    model = GeneratorModel

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
    def features(self, spec: PublicSpec) -> Features:
        """The public features of images of ``spec``."""

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum of [count_weight; features] by class."""
        features = self.features(spec)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            rows = moved(features, images.device).rows(images.flatten(1).float() / 255)
            ones = rows.new_full((len(images), 1), self.count_weight)
            return torch.cat([ones, rows], dim=1)

        norm = math.hypot(self.count_weight, 1.0)
        asked = {key: value for key, value in self.config().items() if key not in AFTERWARDS}
        return [
            SumQuery(
                "embedding",
                contribution,
                1 + features.dimension,
                norm,
                by_class=True,
                describes={"features": self.name, **asked},
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
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
        curator.open(self)
        answer = curator.sum("embedding")
        return Matching(self, curator.spec, answer, Session.of(curator)).run()


class Matching:
    """A generator in training against noisy class means of features: pure post-processing."""

    def __init__(
        self,
        method: FeatureMatching,
        spec: PublicSpec,
        answer: Answer,
        session: Session | None = None,
    ) -> None:
        session = session or Session()
        device = session.device
        self.method, self.spec = method, spec
        self.features = moved(method.features(spec), device)
        # Noisy sizes, kept at one or more so that they divide.
        self.counts = np.maximum(answer.total[:, 0] / method.count_weight, 1.0)
        means = torch.from_numpy(answer.total[:, 1:] / self.counts[:, None])
        self.mean = MovingMean(means.to(torch.float32).to(device), MEMORY)
        torch.manual_seed(method.seed_public)
        self.random = random_on(device, method.seed_public)
        self.generator = make_generator(spec, method.width, method.latent).to(device)
        self.average = Average(self.generator, method.average)
        classes = len(self.counts)
        per_class = max(2, method.batch // classes)
        self.labels = torch.arange(classes, device=device).repeat_interleave(per_class)
        self.training = Training(
            session,
            {"generator": self.generator},
            torch.optim.Adam(self.generator.parameters(), method.learning_rate, BETAS),
            self.random,
            self.average,
            {"running": self.mean.running},
            warm_up_and_cosine(method.steps),
        )

    def run(self) -> GeneratorModel:
        """Train to the end."""
        self.training.run("matching the generator", self.method.steps, self.advance)
        released = self.average.network.eval()
        return GeneratorModel(self.spec, released, self.method.width, self.counts)

    def advance(self, step: int) -> None:
        """One optimisation step."""
        shape = (len(self.labels), self.method.latent)
        z = torch.randn(shape, generator=self.random, device=self.random.device)
        pixels = (self.generator(z, self.labels).flatten(1) + 1) / 2
        means = self.features.means(pixels.view(len(self.counts), -1, pixels.shape[1]))
        parameters = list(self.generator.parameters())
        gradients = torch.autograd.grad(self.mean.loss(means, step), parameters)
        self.training.along(parameters, gradients, LARGEST_GRADIENT)
        self.average.update(self.generator, step)
