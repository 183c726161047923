"""A generator in training against noisy class means of features of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved, random_on
from sfumato.methods.mean_matching import BETAS, LARGEST_GRADIENT, MovingMean, warm_up_and_cosine
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session, Training
from sfumato.networks import Average
from sfumato.privacy import Answer

if TYPE_CHECKING:
    from sfumato.methods.feature_matching import FeatureMatching

MEMORY = 0.9
"""Decay of the running average of generated means."""


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
