"""A first convolution learned by DP-SGD on a small classifier, and then transferred.

As published (arXiv 2304.12185) its loss couples the whole batch, so that clipping bounds nothing.
Here each unit has a loss of its own and every layer is trained with noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.devices import random_on
from sfumato.methods.training import Session, Training, noisy_mean_gradient
from sfumato.networks import to_pixels
from sfumato.networks.gan import LEAK
from sfumato.networks.sizes import POOLED
from sfumato.privacy import Curator, GradientQuery


class Classifier(nn.Module):
    """One convolution, averages over a grid of 4 × 4 places, and a linear layer."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.score = nn.Linear(width * POOLED**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[b, classes]`` of images in [-1, 1]."""
        maps = F.adaptive_avg_pool2d(F.leaky_relu(self.first(images), LEAK), POOLED)
        logits: Tensor = self.score(maps.flatten(1))
        return logits


class CrossEntropy:
    """The cross-entropy of a unit's own label."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``."""
        return F.cross_entropy(network(to_pixels(images)), labels, reduction="none")


def learn_first_layer(
    classifier: Classifier, query: GradientQuery, batch: int, rate: float, curator: Curator
) -> nn.Conv2d:
    """Train ``classifier`` by the query's steps of DP-SGD; returns its convolution."""
    session, loss = Session.of(curator), CrossEntropy()
    parameters = list(classifier.parameters())
    optimizer = torch.optim.Adam(parameters, rate)
    random = random_on(session.device, 0)
    training = Training(session, {"classifier": classifier}, optimizer, random)

    def advance(step: int) -> None:
        mean = noisy_mean_gradient(curator, query.name, step, classifier, loss, batch)
        training.along(parameters, mean)

    training.run(
        "learning the first layer",
        query.steps,
        advance,
        lambda done: curator.forget(query.name, done),
    )
    return classifier.first
