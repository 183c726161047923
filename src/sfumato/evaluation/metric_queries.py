"""Metrics as queries: what one real image contributes, and what the noisy sums tell.

Classifiers, axes and bounds come from released images alone, so the queries are public. Deviations
are those of the noise; that a test set is finite comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from sfumato.devices import moved
from sfumato.evaluation.extractors import Extractor
from sfumato.evaluation.fidelity import gaussian_frechet_distance
from sfumato.evaluation.training import FittedClassifier, scaled
from sfumato.methods.base import Classifier
from sfumato.privacy import Answer, SumQuery
from sfumato.release.recall import recalls

AXES = 8
"""Coordinates that the noisy Fréchet distance compares: more need more images or a larger ε."""
CLIPPED_SHARE = 0.05
"""Share of the synthetic images that the bound on features touches."""
COUNT_WEIGHT, MEAN_WEIGHT = 0.3, 0.5
"""Weights of the one and of z beside the products zzᵀ, which need most of the bound."""
SIMULATIONS = 200


@dataclass(frozen=True)
class Named:
    """A finished classifier of one image at a time.

    Args:
        name: of the classifier.
        training_count: synthetic images that it was trained on; None for a released classifier.
        label: int64 ``[1]`` of an image uint8 ``[1, c, h, w]``, on the image's device.
    """

    name: str
    training_count: int | None
    label: Callable[[Tensor], Tensor]

    @classmethod
    def fitted(cls, classifier: FittedClassifier) -> Named:
        """A classifier that was trained on synthetic images."""
        network = classifier.network.eval()

        def label(image: Tensor) -> Tensor:
            return moved(network, image.device)(scaled(image)).argmax(dim=1)

        return cls(classifier.name, classifier.training_count, label)

    @classmethod
    def released(cls, name: str, classifier: Classifier) -> Named:
        """A released classifier; it computes where it was moved to."""

        def label(image: Tensor) -> Tensor:
            return torch.from_numpy(classifier.predict(image.cpu().numpy())).to(image.device)

        return cls(name, None, label)


class RecallQuery:
    """Right and wrong answers of ``classifiers`` by true class, as one sum over test images.

    Each image contributes a one to either count of each classifier, in its class's row: norm √m for
    m classifiers, and no coordinate is negative.
    """

    def __init__(
        self, classifiers: Sequence[FittedClassifier | Named], about: dict[str, Any]
    ) -> None:
        self.classifiers = [
            classifier if isinstance(classifier, Named) else Named.fitted(classifier)
            for classifier in classifiers
        ]

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            columns = []
            for classifier in self.classifiers:
                # One image at a time: the most probable class would hide from the curator's probe
                # that a logit's last bits depend on the batch.
                right = torch.cat([classifier.label(image[None]) for image in images]) == labels
                columns += [right, ~right]
            return torch.stack(columns, dim=1).to(torch.float32)

        self.query = SumQuery(
            "recall",
            contribution,
            dimension=2 * len(classifiers),
            clip_norm=math.sqrt(len(classifiers)),
            by_class=True,
            nonnegative=True,
            describes={
                **about,
                "classifiers": [c.name for c in self.classifiers],
                "training_counts": [c.training_count for c in self.classifiers],
            },
        )

    def read(self, answer: Answer) -> list[dict[str, Any]]:
        """Accuracy and recall of each classifier from noisy counts ``[classes, 2m]``."""
        return [
            {
                "classifier": c.name,
                **({} if c.training_count is None else {"training_count": c.training_count}),
                **measured,
            }
            for c, measured in zip(
                self.classifiers, recalls(answer.total, answer.noise_std), strict=True
            )
        ]


class FrechetQuery:
    """Mean and covariance of real features along public axes, as one sum over test images.

    The axes are the leading principal components of the synthetic features, which also give the
    centre and the radius that features are clipped to. z is clipped to norm 1 in units of the
    radius; products off the diagonal carry √2, so that ‖vech(zzᵀ)‖ = ‖z‖² ≤ 1.
    """

    def __init__(
        self, extractor: Extractor, synthetic: Float32[np.ndarray, "n d"], about: dict[str, Any]
    ) -> None:
        exact = synthetic.astype(np.float64)
        centre = exact.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(exact.T))
        axes = vectors[:, : -AXES - 1 : -1]
        coordinates = (exact - centre) @ axes
        self.radius = float(np.quantile(np.linalg.norm(coordinates, axis=1), 1 - CLIPPED_SHARE))
        self.size = axes.shape[1]
        self._rows, self._columns = np.triu_indices(self.size)
        self._scale = np.where(self._rows == self._columns, 1.0, math.sqrt(2))
        self._about = {
            "encoder": extractor.name,
            "encoder_digest": extractor.digest,
            "axes": self.size,
            "radius": self.radius,
            "synthetic_count": len(synthetic),
        }
        own = self._moments(_within_unit(torch.from_numpy(coordinates / self.radius))).numpy()
        self._synthetic = self._gaussian(own.sum(axis=0))

        to_axes = torch.from_numpy(axes.astype(np.float32))
        origin = torch.from_numpy(centre.astype(np.float32))

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            coloured = images.to(extractor.device).expand(-1, 3, -1, -1)
            features = extractor.features(coloured).to(torch.float32)
            centred = features - origin.to(features.device)
            axes = to_axes.to(features.device)
            return self._moments(_within_unit(centred @ axes / self.radius))

        self.query = SumQuery(
            "frechet",
            contribution,
            dimension=1 + self.size + len(self._rows),
            clip_norm=math.sqrt(COUNT_WEIGHT**2 + MEAN_WEIGHT**2 + 1),
            describes={**about, **self._about},
        )

    def read(self, answer: Answer) -> dict[str, Any]:
        """The distance from noisy sums ``[1, d]``, its deviation, and what noise alone gives.

        ``floor`` is the mean distance that the noise would show if the real images had exactly the
        synthetic mean and covariance: a value near it says no more than "not told apart".
        """
        noisy = answer.total[0]
        count = max(float(noisy[0]) / COUNT_WEIGHT, 1.0)
        real = self._gaussian(noisy)
        rng = np.random.default_rng(0)  # simulates noise; protects nobody

        def simulate(truth: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
            sums = self._sums(*truth, count)
            draws = rng.normal(scale=answer.noise_std, size=(SIMULATIONS, len(sums)))
            return np.array([self._distance(self._gaussian(sums + draw)) for draw in draws])

        return {
            "value": self._distance(real),
            "deviation": float(simulate(real).std(ddof=1)),
            "floor": float(simulate(self._synthetic).mean()),
            **self._about,
        }

    def _moments(self, z: Float[Tensor, "b m"]) -> Float[Tensor, "b d"]:
        """[1; z; zzᵀ] of each row, weighted."""
        scale = torch.from_numpy(self._scale).to(z)
        products = z[:, self._rows] * z[:, self._columns] * scale
        ones = z.new_full((len(z), 1), COUNT_WEIGHT)
        return torch.cat([ones, MEAN_WEIGHT * z, products], dim=1)

    def _gaussian(self, sums: Float[np.ndarray, " d"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of z from sums; negative eigenvalues are noise and become 0."""
        count = max(sums[0] / COUNT_WEIGHT, 1.0)
        mean = sums[1 : 1 + self.size] / MEAN_WEIGHT / count
        second = np.zeros((self.size, self.size))
        second[self._rows, self._columns] = sums[1 + self.size :] / self._scale / count
        second[self._columns, self._rows] = second[self._rows, self._columns]
        values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
        return mean, (vectors * values.clip(0)) @ vectors.T

    def _sums(self, mean: np.ndarray, covariance: np.ndarray, count: float) -> np.ndarray:
        """What ``count`` images of this mean and covariance add up to."""
        second = (covariance + np.outer(mean, mean))[self._rows, self._columns] * self._scale
        return count * np.concatenate([[COUNT_WEIGHT], MEAN_WEIGHT * mean, second])

    def _distance(self, real: tuple[np.ndarray, np.ndarray]) -> float:
        return self.radius**2 * gaussian_frechet_distance(*real, *self._synthetic)


def _within_unit(z: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    return z / z.norm(dim=1, keepdim=True).clamp(min=1)
