"""The classifier that ``least-squares`` releases: noisy sums, solved for its weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, moved
from sfumato.features import PooledCoordinates, to_unit
from sfumato.methods.base import Classifier
from sfumato.methods.second_moments import SecondMoments
from sfumato.privacy import Answer

BATCH = 250


class LeastSquaresClassifier(Classifier):
    """Ridge regression on public coordinates, held as the noisy answer that it is solved from.

    Args:
        spec: form and classes of the images.
        coordinates: the public coordinates t that the scores are linear in.
        answer: noisy Σ t by class, times ``target_weight``, and Σ of the products of t.
        target_weight: weight of the first in the release.
    """

    answer: Answer

    def __init__(
        self,
        spec: PublicSpec,
        coordinates: PooledCoordinates,
        answer: Answer,
        target_weight: float,
    ) -> None:
        block = SecondMoments(coordinates.width)
        if answer.total.shape != (len(spec.classes), block.width):
            raise ValueError("there must be a sum of the coordinates for each class")
        if answer.shared.shape != (block.pairs,):
            raise ValueError("there must be a sum of each product of two coordinates")
        if not (np.isfinite(answer.total).all() and np.isfinite(answer.shared).all()):
            raise ValueError("the sums must be finite numbers")
        if not (0 < answer.noise_std < math.inf and 0 < target_weight < math.inf):
            raise ValueError("the noise and the weight must be positive numbers")
        self.spec, self.coordinates, self.answer = spec, coordinates, answer
        self.target_weight = target_weight
        targets = answer.total / target_weight
        self.weights = block.solve(answer.shared, targets, answer.noise_std)
        self._block = block

    def move(self, device: torch.device) -> None:
        """Compute the coordinates on ``device`` from now on."""
        moved(self.coordinates, device)

    @torch.no_grad()
    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class scores ``[b, classes]``: least-squares estimates of the centred class indicator."""
        device = device_of(self.coordinates)
        parts = [np.zeros((0, len(self.spec.classes)), np.float32)]
        for part in torch.from_numpy(images).split(BATCH):
            extended = self._block.extend(self.coordinates(to_unit(part.to(device))))
            parts.append(extended.cpu().numpy() @ self.weights)
        return np.concatenate(parts)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The public axes and the noisy sums; the weights follow from them."""
        axes = {name: tensor.cpu().numpy() for name, tensor in self.coordinates.tensors().items()}
        return {**axes, "total": self.answer.total, "shared": self.answer.shared}

    def config(self) -> dict[str, Any]:
        """What loading needs besides the arrays."""
        return {
            **self.coordinates.config(),
            "axes_digest": self.coordinates.digest,
            "noise_std": self.answer.noise_std,
            "target_weight": self.target_weight,
        }

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> LeastSquaresClassifier:
        """Rebuild a classifier from what was saved."""
        if set(tensors) != {"mean", "axes", "total", "shared"}:
            raise ValueError("the tensors are not those of a least-squares classifier")
        if not tensors["total"].dtype == tensors["shared"].dtype == np.float64:
            raise ValueError("the sums must be float64 numbers")
        coordinates = PooledCoordinates.load(
            config, {name: torch.from_numpy(tensors[name]) for name in ("mean", "axes")}
        )
        answer = Answer(tensors["total"], tensors["shared"], float(config["noise_std"]))
        return cls(spec, coordinates, answer, float(config["target_weight"]))
