"""Images drawn from one noisy sum, to warm a network up before any gradient is asked for.

A model that has learned coarse images already spends its private steps on what they lack. Central
images are DP-FETA's (arXiv 2504.07822): noisy means of groups of a class. Moments go further at the
same cost: a Gaussian on cosine coefficients, from which any number of images can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.features.basis import dct_basis
from sfumato.methods.mepf.embedding import Embedding
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.moments import Moments
from sfumato.privacy import Answer, SumQuery

WarmUp = Literal["none", "central", "moments", "mepf"]

COUNT_WEIGHT = 0.1
POOL = 20_000
GROUP_BITS = 4
"""A class has 2⁴ central images, told apart by the signs of four low cosine coefficients."""


@runtime_checkable
class WarmImages(Protocol):
    """A query whose noisy answer images can be drawn from.

    ``counts`` are noisy class sizes, known once the answer is learned.
    """

    counts: NDArray[np.float64]

    def __init__(self, spec: PublicSpec) -> None: ...

    def query(self, relative_noise: float) -> SumQuery:
        """The sum to ask for."""

    def learn(self, answer: Answer, folder: Path, quiet: bool) -> None:
        """Take the answer in; ``folder`` keeps the checkpoint where that takes long."""

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 ``[count, c, h, w]`` and labels int64 ``[count]``."""


class MomentImages:
    """Images of a Gaussian on the lowest cosine coefficients of each class, as in ``moments``."""

    def __init__(self, spec: PublicSpec) -> None:
        self.spec, self.method = spec, Moments()
        self.counts = np.ones(max(len(spec.classes), 1))

    def query(self, relative_noise: float) -> SumQuery:
        """The sum of the method ``moments``."""
        (query,) = self.method.queries(self.spec)
        assert isinstance(query, SumQuery)
        return replace(query, relative_noise=relative_noise)

    def learn(self, answer: Answer, folder: Path, quiet: bool) -> None:
        """Fit the Gaussians."""
        self.model = self.method.learn(answer, self.spec)
        self.counts = self.model.counts

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from the Gaussians, classes in proportion to their noisy sizes."""
        share = torch.from_numpy(self.counts / self.counts.sum())
        labels = torch.multinomial(share, count, replacement=True, generator=generator)
        return self.model.draw(labels, generator), labels


class CentralImages:
    """Noisy mean images of groups of each class (DP-FETA's warm-up on central images).

    A unit's group is decided by the signs of its own low cosine coefficients, so it adds its pixels
    to one group of one class, and the sensitivity is that of one image.
    """

    def __init__(self, spec: PublicSpec) -> None:
        self.spec = spec
        self.pixels = spec.channels * spec.height * spec.width
        self.signs = torch.from_numpy(dct_basis(spec, 1 + GROUP_BITS)[1:])
        self.counts = np.ones(max(len(spec.classes), 1))

    def query(self, relative_noise: float) -> SumQuery:
        """Σ [w; image] in the block of its group, by class."""

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            flat = images.flatten(1).to(torch.float32) / 255
            bits = (flat @ self.signs.T > 0).to(torch.int64)
            group = (bits * 2 ** torch.arange(GROUP_BITS)).sum(dim=1)
            ones = torch.full((len(images), 1), COUNT_WEIGHT * math.sqrt(self.pixels))
            row = torch.cat([ones, flat], dim=1)
            blocks = torch.zeros(len(images), 2**GROUP_BITS, row.shape[1])
            blocks[torch.arange(len(images)), group] = row
            return blocks.flatten(1)

        dimension = 2**GROUP_BITS * (1 + self.pixels)
        norm = math.sqrt(self.pixels) * math.hypot(COUNT_WEIGHT, 0.5)
        return SumQuery(
            "central",
            contribution,
            dimension,
            norm,
            by_class=True,
            nonnegative=True,
            relative_noise=relative_noise,
            describes={"groups": 2**GROUP_BITS, "count_weight": COUNT_WEIGHT},
        )

    def learn(self, answer: Answer, folder: Path, quiet: bool) -> None:
        """Divide noisy sums by noisy sizes; a group that noise hides is weighted down by it."""
        blocks = answer.total.reshape(len(answer.total), 2**GROUP_BITS, 1 + self.pixels)
        sizes = np.maximum(blocks[:, :, 0] / (COUNT_WEIGHT * math.sqrt(self.pixels)), 0.0)
        noise = answer.noise_std / np.maximum(sizes, 1.0)
        self.weights = np.where(noise < 0.25, sizes, 0.0) + 1e-9
        self.counts = np.maximum(sizes.sum(axis=1), 1.0)
        means = blocks[:, :, 1:] / np.maximum(sizes, 1.0)[:, :, None]
        self.images = torch.from_numpy((means.clip(0, 1) * 255).round().astype(np.uint8))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw central images, classes and groups in proportion to their noisy sizes."""
        flat = torch.from_numpy(self.weights.reshape(-1))
        chosen = torch.multinomial(flat, count, replacement=True, generator=generator)
        labels = chosen // 2**GROUP_BITS
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        return self.images.flatten(0, 1)[chosen].view(-1, *shape), labels


class EmbeddedImages:
    """Images of a generator that is matched to a noisy mean embedding, as DP-MEPF's.

    ``method`` is the configured DP-MEPF; a pool of its images is drawn once.
    """

    def __init__(self, spec: PublicSpec, method: DPMEPF | None = None) -> None:
        self.spec = spec
        self.method = method or DPMEPF(steps=1000)
        self.counts = np.ones(max(len(spec.classes), 1))

    def query(self, relative_noise: float) -> SumQuery:
        """DP-MEPF's joint embedding."""
        (query,) = self.method.queries(self.spec)
        assert isinstance(query, SumQuery)
        return replace(query, relative_noise=relative_noise)

    def learn(self, answer: Answer, folder: Path, quiet: bool) -> None:
        """Match the generator and draw the pool."""
        embedding = Embedding(
            answer.total, answer.shared, answer.noise_std, self.spec, self.method.config()
        )
        model = self.method.learn(embedding, folder, quiet)
        self.counts = model.counts
        batches = list(model.sample(POOL, self.method.seed_public))
        self.images, self.labels = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True)
        )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from the pool."""
        index = torch.randint(len(self.images), (count,), generator=generator)
        return self.images[index], self.labels[index]


def warm_images(warm_up: WarmUp, spec: PublicSpec) -> WarmImages | None:
    """The images that a kind of warm-up draws; None without a warm-up."""
    if warm_up == "none":
        return None
    kinds: dict[str, Callable[[PublicSpec], WarmImages]] = {
        "central": CentralImages,
        "moments": MomentImages,
        "mepf": EmbeddedImages,
    }
    return kinds[warm_up](spec)
