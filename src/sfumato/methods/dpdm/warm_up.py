"""Images sampled from one noisy sum, to train a network on before any gradient is asked for.

A model that has learned coarse images already spends its private steps on what they lack. Central
images are DP-FETA's (arXiv 2504.07822): noisy means of groups of a class. Moments go further at the
same cost: a Gaussian on cosine coefficients, from which any number of images can be sampled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.methods.dpdm.first_queries import (
    COUNT_WEIGHT,
    EMBEDDING,
    GROUP_BITS,
    MOMENTS,
    WarmUp,
)
from sfumato.methods.mepf.embedding import Embedding
from sfumato.methods.training import Session
from sfumato.privacy import Answer

POOL = 20_000


class WarmImages(ABC):
    """What is learned from a noisy answer, for images to be sampled from."""

    name: ClassVar[str]
    """The query's name."""

    def __init__(self, spec: PublicSpec) -> None:
        self.spec = spec
        self.counts: NDArray[np.float64] = np.ones(max(len(spec.classes), 1))
        """Noisy class sizes, known once the answer is learned."""

    @abstractmethod
    def learn(self, answer: Answer, session: Session) -> None:
        """Take the answer in, on the session's device."""

    @abstractmethod
    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 ``[count, c, h, w]`` and labels int64 ``[count]``, on that device."""


class MomentImages(WarmImages):
    """Images of a Gaussian on the lowest cosine coefficients of each class, as in ``moments``."""

    name = "moments"

    def learn(self, answer: Answer, session: Session) -> None:
        """Fit the Gaussians."""
        self.model = MOMENTS.learn(answer, self.spec)
        self.model.move(session.device)
        self.counts = self.model.counts
        self.share = torch.from_numpy(self.counts / self.counts.sum()).to(session.device)

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample from the Gaussians, classes in proportion to their noisy sizes."""
        labels = torch.multinomial(self.share, count, replacement=True, generator=random)
        return self.model.draw(labels, random)


class CentralImages(WarmImages):
    """Noisy mean images of groups of each class (DP-FETA's warm-up on central images).

    A unit's group is decided by the signs of its own low cosine coefficients, so it adds its pixels
    to one group of one class, and the sensitivity is that of one image.
    """

    name = "central"

    def __init__(self, spec: PublicSpec) -> None:
        super().__init__(spec)
        self.pixels = spec.channels * spec.height * spec.width

    def learn(self, answer: Answer, session: Session) -> None:
        """Divide noisy sums by noisy sizes; a group that noise hides is weighted down by it."""
        blocks = answer.total.reshape(len(answer.total), 2**GROUP_BITS, 1 + self.pixels)
        sizes = np.maximum(blocks[:, :, 0] / (COUNT_WEIGHT * math.sqrt(self.pixels)), 0.0)
        noise = answer.noise_std / np.maximum(sizes, 1.0)
        weights = np.where(noise < 0.25, sizes, 0.0) + 1e-9
        self.counts = np.maximum(sizes.sum(axis=1), 1.0)
        means = blocks[:, :, 1:] / np.maximum(sizes, 1.0)[:, :, None]
        images = torch.from_numpy((means.clip(0, 1) * 255).round().astype(np.uint8))
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        self.images = images.view(-1, *shape).to(session.device)
        self.weights = torch.from_numpy(weights.reshape(-1)).to(session.device)

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample central images, classes and groups in proportion to their noisy sizes."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=random)
        return self.images[chosen], chosen // 2**GROUP_BITS


class EmbeddedImages(WarmImages):
    """A pool of images of a generator that is matched to a noisy mean embedding, as DP-MEPF's."""

    name = "embedding"

    def learn(self, answer: Answer, session: Session) -> None:
        """Match the generator and sample the pool."""
        embedding = Embedding(
            answer.total, answer.shared, answer.noise_std, self.spec, EMBEDDING.config()
        )
        model = EMBEDDING.learn(embedding, session)
        self.counts = model.counts
        batches = list(model.sample(POOL, EMBEDDING.seed_public))
        self.images, self.labels = (
            torch.from_numpy(np.concatenate(part)).to(session.device)
            for part in zip(*batches, strict=True)
        )

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from the pool."""
        index = torch.randint(len(self.images), (count,), generator=random, device=random.device)
        return self.images[index], self.labels[index]


def warm_images(warm_up: WarmUp, spec: PublicSpec) -> WarmImages | None:
    """The images of a kind of warm-up; None without a warm-up."""
    kinds: dict[str, type[WarmImages]] = {
        "central": CentralImages,
        "moments": MomentImages,
        "mepf": EmbeddedImages,
    }
    return None if warm_up == "none" else kinds[warm_up](spec)
