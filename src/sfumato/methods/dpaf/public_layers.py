"""DPAF with layers of a public encoder below its sum: nothing there is trained.

A row of the aggregate is what DP-MEPF adds up (arXiv 2205.12900): a count, the activations of some
blocks with their places, their squares, and the moments of a coarse Gaussian that generated images
start from. Each row has a known norm, so the query and its proof are those of random layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.methods.gaussian import Gaussians
from sfumato.methods.mepf.embedding import Embedding, JointEmbedding
from sfumato.privacy import AggregateQuery, Curator


@dataclass(frozen=True)
class PublicMaps:
    """Activations φ₁ of a public encoder and their weighted squares φ₂, as one vector an image.

    Args:
        second_weight: weight of φ₂; 0 leaves it out.
    """

    second_weight: float

    @property
    def reach(self) -> float:
        """The norm of an image's maps at most: φ₁ and φ₂ have norm 1."""
        return float((1 + self.second_weight**2) ** 0.5)

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def maps(self, network: JointEmbedding, images: Tensor) -> Tensor:
        """Flat maps ``[b, d]`` of images in [-1, 1]; differentiable."""
        first, second = network.moments(network.features.activations(images / 2 + 0.5))
        if not self.second_weight:
            return first
        return torch.cat([first, second * self.second_weight], dim=1)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """A unit's count, maps and moments of the start, float ``[u, dimension]``."""
        assert isinstance(network, JointEmbedding)
        return network.contribution(images, labels)


class NoisyEmbeddings:
    """Class means of public activations from a curator, and the Gaussians that images start from.

    Counts and Gaussians are those of the average of all releases so far.

    Args:
        curator: answers.
        query: what it is asked; without a gradient.
        noise_std: of a coordinate of the sums.
        joint: what is asked about.
        maps: the part of it that the discriminator sees.
        start: is set to the newest Gaussians, in place; None if there are none.
    """

    def __init__(
        self,
        curator: Curator,
        query: AggregateQuery,
        noise_std: float,
        joint: JointEmbedding,
        maps: PublicMaps,
        start: Gaussians | None,
    ) -> None:
        self.curator, self.query, self.noise_std = curator, query, noise_std
        self.joint, self.maps, self.start = joint, maps, start
        shape, device = (query.rows, query.dimension), curator.device
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    @property
    def state(self) -> dict[str, Tensor]:
        """What a step changes and a checkpoint must hold."""
        start = self.start
        held = {} if start is None else {"start-means": start.means, "start-roots": start.roots}
        return {"total": self.total, **held}

    def means(self, step: int) -> tuple[Tensor, Tensor]:
        """Noisy sums over noisy counts, and the deviation of their noise."""
        newest = self.curator.aggregate(self.query.name, step, self.joint, self.maps)
        self.total += newest.to(self.total.device)
        sizes, newest_start = self._sizes_and_start(step + 1)
        if self.start is not None:
            assert newest_start is not None
            self.start.means.copy_(newest_start.means)
            self.start.roots.copy_(newest_start.roots)
        counts = torch.from_numpy(sizes).to(newest.device)
        columns = self.joint.blocks.width * (2 if self.maps.second_weight else 1)
        means = newest[:, 1 : 1 + columns] / counts[:, None]
        return means.float(), (self.noise_std / counts).float()

    def pull_back(self, step: int, cotangent: Tensor) -> Sequence[Tensor]:
        """Nothing below the sum is trained."""
        return []

    def forget(self, done: int) -> None:
        """Drop stored answers of the first ``done`` steps."""
        self.curator.forget(self.query.name, done)

    def counts(self, steps: int) -> NDArray[np.float64]:
        """Noisy class sizes of the sample of a step, after so many steps."""
        return self._sizes_and_start(steps)[0]

    def _sizes_and_start(self, steps: int) -> tuple[NDArray[np.float64], Gaussians | None]:
        average, noise = self.total.cpu().numpy() / steps, self.noise_std / steps**0.5
        joint = self.joint
        return joint.sizes_and_start(Embedding(average, np.zeros(0), noise, joint.spec, {}))


def no_gaussians(classes: int, coefficients: int) -> Gaussians:
    """Gaussians that are not known yet."""
    shape = (classes, coefficients, coefficients)
    return Gaussians(np.zeros(shape[:2], np.float32), np.zeros(shape, np.float32))
