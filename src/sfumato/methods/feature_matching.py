"""Match a generator to a noisy mean of features of pixels: what DP-MERF and DP-NTK share.

One noisy sum by class is released; the generator is trained on it alone, so its steps cost
nothing. The gradient is that of −2⟨μ̃ − m, μ(G)⟩ with m a running average of generated means: the
plain ‖μ̃ − μ(G)‖² of a batch is biased by the batch's variance and rewards collapse.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Method, check_rules
from sfumato.methods.checkpoint import Training
from sfumato.methods.dpgan.method import GANModel, make_generator
from sfumato.methods.estimate import reading, seconds_of
from sfumato.networks import Average, Generator
from sfumato.privacy import Answer, Curator, Query, SumQuery

WARM_UP = 50
LAST_RATE = 0.05
MEMORY = 0.9
LARGEST_GRADIENT = 1.0
AFTERWARDS = frozenset("steps batch learning_rate width latent average".split())
"""Settings of the generator's training, which may change after the sum was paid for."""


class Features(ABC):
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

    model = GANModel

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

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum of [count_weight; features] by class."""
        features = self.features(spec)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            ones = torch.full((len(images), 1), self.count_weight)
            return torch.cat([ones, features.rows(images.flatten(1).float() / 255)], dim=1)

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
        """Expected time and memory on this machine, measured on public images."""
        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        classes = max(len(spec.classes), 1)
        zero = Answer(np.ones((classes, query.dimension)), np.zeros(0), 1.0)
        matching = Matching(self, spec, zero)
        minutes = seconds_of(lambda: matching.advance(0)) * self.steps / 60
        training = f"{minutes:.0f} minutes for {self.steps:,} steps"
        return {**reading(query, spec), "training_time": training}

    def fit(self, curator: Curator) -> GANModel:
        """Ask once, then train; a killed run goes on from its checkpoint with the same answer."""
        curator.open(self)
        matching = Matching(self, curator.spec, curator.sum("embedding"))
        return matching.run(curator.run_folder, curator.quiet)


class Matching:
    """A generator in training against noisy class means of features: pure post-processing."""

    def __init__(self, method: FeatureMatching, spec: PublicSpec, answer: Answer) -> None:
        self.method, self.spec, self.features = method, spec, method.features(spec)
        # Noisy sizes, kept at one or more so that they divide.
        self.counts = np.maximum(answer.total[:, 0] / method.count_weight, 1.0)
        means = answer.total[:, 1:] / self.counts[:, None]
        self.wanted = torch.from_numpy(means).to(torch.float32)
        self.running = torch.zeros_like(self.wanted)
        torch.manual_seed(method.seed_public)
        self.noise = torch.Generator().manual_seed(method.seed_public)
        self.generator: Generator = make_generator(spec, method.width, method.latent)
        self.averaged = Average(self.generator, method.average)
        rate, betas = method.learning_rate, (0.5, 0.999)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), rate, betas)
        classes = len(self.counts)
        per_class = max(2, method.batch // classes)
        self.labels = torch.arange(classes).repeat_interleave(per_class)

    def run(self, folder: Path | None, quiet: bool) -> GANModel:
        """Train to the end; ``folder`` keeps the checkpoint that a stopped run goes on from."""
        networks = {"generator": self.generator, "average": self.averaged.network}
        training = Training(networks, self.optimizer, self.noise, {"running": self.running})
        steps = self.method.steps
        training.run("matching the generator", steps, self.advance, folder, quiet)
        return GANModel(self.spec, self.averaged.network.eval(), self.method.width, self.counts)

    def advance(self, step: int) -> None:
        """One optimisation step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.method.steps))
        share = min(1.0, (step + 1) / WARM_UP) * (cosine * (1 - LAST_RATE) + LAST_RATE)
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate * share
        z = torch.randn(len(self.labels), self.method.latent, generator=self.noise)
        pixels = (self.generator(z, self.labels).flatten(1) + 1) / 2
        means = self.features.means(pixels.view(len(self.wanted), -1, pixels.shape[1]))
        with torch.no_grad():
            # A short memory at first, while the generator moves fast.
            self.running.lerp_(means, 1 - min(MEMORY, step / (step + 9)))
            gap = self.wanted - self.running
        self.optimizer.zero_grad(set_to_none=True)
        (-2 * (gap * means).sum()).backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.averaged.update(self.generator, step)
