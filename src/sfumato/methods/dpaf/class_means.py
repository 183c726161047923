"""Noisy class means of features, and the noisy gradient of the layers below them.

DPAF's generator sees real images through these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.methods.dpaf.settings import COUNT_WEIGHT, clip_norm_of
from sfumato.networks import to_pixels
from sfumato.networks.aggregating import Lower
from sfumato.privacy import AggregateQuery, Curator
from sfumato.privacy.gradients.layers import unflatten

LEAST_SHARE = 0.25
"""A class is taken to have at least this share of an even one: what noise says is not believed."""


@dataclass(frozen=True)
class ClassMaps:
    """An image's feature maps, of norm ``reach`` at most, and a constant that counts it."""

    reach: float

    @property
    def clip_norm(self) -> float:
        """S, the norm of both together at most."""
        return clip_norm_of(self.reach)

    @property
    def unit_count(self) -> float:
        """What an image adds to the count."""
        return COUNT_WEIGHT * self.reach

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def maps(self, network: nn.Module, images: Tensor) -> Tensor:
        """Flat maps ``[b, d]`` of images in [-1, 1]."""
        flat = network(images).flatten(1)
        norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        result: Tensor = flat * (self.reach / norms.clamp(min=self.reach))
        return result

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """Features of each unit, float ``[u, d + 1]``."""
        maps = self.maps(network, to_pixels(images))
        count = torch.full((len(maps), 1), self.unit_count, device=maps.device, dtype=maps.dtype)
        return torch.cat([maps, count], dim=1)


@runtime_checkable
class Maps(Protocol):
    """The part of an image's features that a discriminator sees."""

    @property
    def reach(self) -> float:
        """Their norm at most."""

    def maps(self, network: Any, images: Tensor, /) -> Tensor:
        """Flat maps ``[b, d]`` of images in [-1, 1]; differentiable."""


@runtime_checkable
class ClassMeans(Protocol):
    """Where the class means of real images come from, step by step."""

    def means(self, step: int) -> tuple[Tensor, Tensor]:
        """Class means ``[rows, d]`` and the deviation of their noise ``[rows]``."""

    def pull_back(self, step: int, cotangent: Tensor) -> Sequence[Tensor]:
        """Gradient of the lower layers' parameters for that of the means ``[rows, d]``."""


class NoisyClassMeans:
    """Class means from a curator; both parts of a step where the lower layers are trained.

    Args:
        curator: answers.
        forward, joint: the queries for steps without and with a gradient; None if there are none.
        every: μ; each μ-th step is a joint one.
        noise_std: of a coordinate of the sums, in either query.
        lower, maps: what is asked about.
        expected: expected number of units of a class in a sample, if classes were even.
        tally: float ``[rows + 1]``, noisy counts of all steps so far and how many these are; it is
            changed in place, for a checkpoint to hold.
    """

    def __init__(
        self,
        curator: Curator,
        forward: AggregateQuery | None,
        joint: AggregateQuery | None,
        every: int,
        noise_std: float,
        lower: Lower,
        maps: ClassMaps,
        expected: float,
        tally: Tensor,
    ) -> None:
        self.curator, self.forward, self.joint, self.every = curator, forward, joint, every
        self.noise_std, self.lower, self.maps = noise_std, lower, maps
        self.expected, self.tally = expected, tally

    def _place(self, step: int) -> tuple[str, int]:
        """The name of the query that a step belongs to, and its number there."""
        joint_before = step // self.every if self.every else 0
        if self.every and (step + 1) % self.every == 0:
            assert self.joint is not None
            return self.joint.name, joint_before
        assert self.forward is not None
        return self.forward.name, step - joint_before

    def counts(self) -> Tensor:
        """Noisy expected number of sampled units of each class, float ``[rows]``."""
        mean = self.tally[:-1] / self.tally[-1].clamp(min=1)
        return mean.clamp(min=LEAST_SHARE * self.expected)

    def means(self, step: int) -> tuple[Tensor, Tensor]:
        """Noisy sums over noisy counts; nothing here knows a true one."""
        total = self.curator.aggregate(*self._place(step), self.lower, self.maps).float()
        self.tally[:-1] += total[:, -1] / self.maps.unit_count
        self.tally[-1] += 1
        counts = self.counts()
        return total[:, :-1] / counts[:, None], self.noise_std / counts

    def pull_back(self, step: int, cotangent: Tensor) -> Sequence[Tensor]:
        """The noisy gradient over the sample of ``step``, whose means were the last released."""
        name, number = self._place(step)
        whole = torch.cat(
            [cotangent / self.counts()[:, None], torch.zeros_like(cotangent[:, :1])], dim=1
        )
        flat = self.curator.pull_back(name, number, self.lower, self.maps, whole)
        return unflatten(flat, list(self.lower.parameters()))

    def forget(self, done: int) -> None:
        """Drop stored answers of the first ``done`` steps."""
        joint = done // self.every if self.every else 0
        for query, before in ((self.joint, joint), (self.forward, done - joint)):
            if query is not None:
                self.curator.forget(query.name, before)
