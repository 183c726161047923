"""A first convolution learned by DP-SGD on a small classifier, and then transferred.

As published (arXiv 2304.12185) its loss couples the whole batch, so that clipping bounds nothing.
Here each unit has a loss of its own and every layer is trained with noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.methods.checkpoint import Training
from sfumato.methods.diffusion import device_of, to_pixels
from sfumato.networks.gan import LEAK
from sfumato.privacy import Curator, GradientQuery, world
from sfumato.privacy.layers import unflatten
from sfumato.progress import stage

POOLED = 4
CHECKPOINT_EVERY = 20


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
    classifier: Classifier,
    query: GradientQuery,
    batch: int,
    rate: float,
    curator: Curator,
    saved: Callable[[int], None],
) -> nn.Conv2d:
    """Train ``classifier`` by the query's steps of DP-SGD; returns its convolution."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=rate)
    training = Training({"classifier": classifier}, optimizer, torch.Generator(), {})
    path = Path(curator.run_folder) / "checkpoint-first-layer.safetensors"
    step = training.restore(path) if path.exists() else 0
    parameters, loss = list(classifier.parameters()), CrossEntropy()
    for parameter in parameters:
        world.tensor_from_first(parameter.data)
    with stage("learning the first layer", curator.quiet) as report:
        while step < query.steps:
            total = curator.gradient(query, step, classifier, loss)
            optimizer.zero_grad(set_to_none=True)
            for parameter, value in zip(
                parameters, unflatten(total / batch, parameters), strict=True
            ):
                parameter.grad = value.clone()
            optimizer.step()
            step += 1
            report(step / query.steps)
            if step % CHECKPOINT_EVERY == 0 or step == query.steps:
                if world.is_first():
                    training.save(path, step)
                saved(step)
    return classifier.first.to(device_of(classifier))
