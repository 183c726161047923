"""The steps of an aggregate query: noisy class sums of features, then their pulled-back gradient.

Both parts of a step are taken over the same Poisson sample with the same draws, and each is on disk
before it leaves; ``docs/proofs.md``, "aggregate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.data.source import ImageSource
from sfumato.errors import UsageError
from sfumato.privacy import distributed
from sfumato.privacy.answering.gradient import Sampled, check_size
from sfumato.privacy.gradients.per_example import (
    IMAGES_AT_ONCE,
    NORM_ERROR,
    Batch,
    Drawing,
    clipped_sum,
)
from sfumato.privacy.noise.keys import Key
from sfumato.privacy.queries.aggregate import AggregateQuery


@runtime_checkable
class UnitFeatures(Drawing, Protocol):
    """The features of each unit, and the randomness that they need."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """Features float ``[u, dimension]``: uint8 ``[u, c, h, w]``, int64 ``[u]``, its draws.

        Each row from its own unit alone.
        """


def clip_rows(rows: Tensor, clip_norm: float) -> Tensor:
    """Each row of ``[u, d]`` shortened to norm ``clip_norm`` at most; zeros where it is not finite.

    Differentiable; a row within the bound is scaled by 1 - 2⁻¹² too, which pays for rounding.
    """
    finite = torch.isfinite(rows.detach()).all(dim=1)
    # Taken out before anything is multiplied: 0 · ∞ is no number, in gradients neither.
    kept = torch.where(finite[:, None], rows, 0.0)
    norms = torch.linalg.vector_norm(kept, dim=1, keepdim=True, dtype=torch.float64)
    return (kept * ((1 - NORM_ERROR) * clip_norm / norms.clamp(min=clip_norm))).to(torch.float32)


@dataclass(frozen=True)
class PulledBack:
    """A unit's ⟨clip(features), its class's row of a cotangent⟩, whose gradient is pulled back.

    Args:
        features: what the first part added up.
        clip_norm: S.
        cotangent: float ``[rows, dimension]``, fixed.
    """

    features: UnitFeatures
    clip_norm: float
    cotangent: Tensor

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The features' own draws."""
        return self.features.draws(units, generator)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """The product of each unit, float ``[u]``."""
        clipped = clip_rows(self.features(network, images, labels, *draws), self.clip_norm)
        return (clipped * self.cotangent[labels]).sum(dim=1)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's weights are; all of them may be fixed ones."""
    return next(chain(network.parameters(), network.buffers())).device


def class_sums(
    network: nn.Module, features: UnitFeatures, batch: Batch, query: AggregateQuery
) -> Tensor:
    """Σ over units of clipped features, in the rows of their classes, float64 ``[rows, d]``."""
    device = device_of(network)
    total = torch.zeros(query.rows, query.dimension, dtype=torch.float64, device=device)
    with torch.no_grad():
        for part in batch.split(IMAGES_AT_ONCE):
            values = features(network, part.images, part.labels, *part.draws)
            total.index_add_(0, part.labels, clip_rows(values, query.clip_norm).to(torch.float64))
    return total


class Aggregation(Sampled):
    """Answers the steps of ``query``, in order, each part once; arguments as for ``Sampled``."""

    def __init__(
        self,
        query: AggregateQuery,
        noise_std: float,
        source: ImageSource,
        folder: Path,
        key: Key,
        check: Callable[[], None],
    ) -> None:
        super().__init__(query, noise_std, source, folder, key, check)
        self.query = query
        self.forward_std, self.backward_std = query.noise_stds(noise_std)

    def forward(self, step: int, network: nn.Module, features: UnitFeatures) -> Tensor:
        """The noisy class sums of ``step`` (from 0), float32 ``[rows, dimension]``.

        Raises:
            UsageError: the step is not the next one, or was forgotten.
            LedgerError: a stored answer is damaged, or the disk refuses to store this one.
            SfumatoError: the features fail on the private data (the message is withheld).
        """
        device = device_of(network)
        known = self._stored(step)
        if known:
            return known["forward"].to(device)

        def sum_of(batch: Batch) -> Tensor:
            return class_sums(network, features, batch, self.query)

        total = self._sum_over_sample(step, features, device, sum_of)
        answer = self._noisy(total, self.forward_std, "noise", step)
        if distributed.is_first():
            self._answers.keep(step, {"forward": answer})
        return distributed.tensor_from_first(answer.to(device))

    def pull_back(
        self, step: int, network: nn.Module, features: UnitFeatures, cotangent: Tensor
    ) -> Tensor:
        """The noisy sum of the gradients of the same sample, float32 ``[gradient_dimension]``.

        Raises:
            UsageError: the query has no such part, the step is not the newest one, the network
                has another number of parameters, or ``cotangent`` another shape than the sums.
            LedgerError, SfumatoError: as for the sums.
        """
        query = self.query
        if not query.backward:
            raise UsageError(f"query {query.name!r} was planned without a gradient.")
        check_size(query.name, network, query.gradient_dimension)
        if cotangent.shape != (query.rows, query.dimension):
            raise UsageError(
                f"query {query.name!r}: cotangent has shape {tuple(cotangent.shape)}, the sums "
                f"have {(query.rows, query.dimension)}."
            )
        device = device_of(network)
        known = self._stored(step)
        if "backward" in known:
            return known["backward"].to(device)
        newest = distributed.from_first(self._answers.newest() if distributed.is_first() else None)
        if step != newest:
            raise UsageError(
                f"query {query.name!r}: the gradient of step={step} must be asked for after its "
                f"sums and before those of the next; the newest step is {newest}."
            )
        loss = PulledBack(features, query.clip_norm, cotangent.detach().to(device))
        way = self._way_for(network, loss, query.gradient_clip_norm)

        def sum_of(batch: Batch) -> Tensor:
            return clipped_sum(network, loss, batch, query.gradient_clip_norm, way)

        total = self._sum_over_sample(step, loss, device, sum_of)
        answer = self._noisy(total, self.backward_std, "backward noise", step)
        if distributed.is_first():
            self._answers.keep(step, {**known, "backward": answer})
        return distributed.tensor_from_first(answer.to(device))
