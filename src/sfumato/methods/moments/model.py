"""What ``moments`` releases: Gaussians on cosine coefficients, which images are sampled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.features.basis import dct_basis
from sfumato.methods.gaussian import Gaussians, loaded_gaussians
from sfumato.methods.model import ImageModel
from sfumato.methods.saved_arrays import checked_counts
from sfumato.networks import Random


@dataclass(frozen=True)
class MomentModel(ImageModel):
    """The fitted Gaussians; ``counts`` are the noisy class sizes."""

    at_once: ClassVar[int] = 1000

    spec: PublicSpec
    counts: NDArray[np.float64]
    gaussians: Gaussians
    coefficients: int

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The Gaussians."""
        return (self.gaussians,)

    @cached_property
    def _basis(self) -> Tensor:
        return torch.from_numpy(dct_basis(self.spec, self.coefficients))

    def draw(self, labels: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """Images sampled from the Gaussians, and the labels as they are."""
        flat = self.gaussians.draw(labels, self._basis.to(labels.device), random)
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        return (flat * 255).round().to(torch.uint8).view(-1, *shape), labels

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        return {"counts": self.counts, **self.gaussians.tensors()}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"coefficients": self.coefficients}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> MomentModel:
        """Rebuild a model from what was saved."""
        counts, gaussians = checked_counts(tensors["counts"], spec), loaded_gaussians(tensors)
        stated = len(counts), config["coefficients"]
        if gaussians.means.shape != stated or stated[1] > spec.channels * spec.height * spec.width:
            raise ValueError("the tensors are not those of the stated Gaussians")
        return cls(spec, counts, gaussians, gaussians.means.shape[1])
