"""The steps of an aggregate query: noisy class sums of features, then their pulled-back gradient.

Both parts of a step are taken over the same Poisson sample with the same draws, and each is on disk
before it leaves; ``docs/proofs/aggregate.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.devices import TOO_LITTLE_MEMORY, device_of, exact_device, free_memory
from sfumato.errors import SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.sampled import (
    SampledAnswering,
    check_no_batch_statistics,
    check_size,
    lent,
    public_batch,
)
from sfumato.privacy.clipping import EXACT_ROWS, MARGIN, add_clipped, some_rows
from sfumato.privacy.gradients.per_example import (
    IMAGES_AT_ONCE,
    UnitBatch,
    UnitRandomness,
    gradient_sum,
    rows_are_independent,
)
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.aggregate import AggregateQuery


@runtime_checkable
class UnitFeatures(UnitRandomness, Protocol):
    """The features of each unit, and the randomness that they need."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """Features float ``[u, dimension]``: uint8 ``[u, c, h, w]``, int64 ``[u]``, its draws.

        Each row from its own unit alone.
        """


def clip_rows(rows: Tensor, clip_norm: float) -> Tensor:
    """Each row of ``[u, d]`` shortened to norm ``clip_norm`` at most; zeros where it is not finite.

    Differentiable; a row within the bound is scaled by 1 - 2⁻¹³ too, which pays for rounding.
    """
    finite = torch.isfinite(rows.detach()).all(dim=1)
    # Taken out before anything is multiplied: 0 · ∞ is no number, in gradients neither.
    kept = torch.where(finite[:, None], rows, 0.0)
    norms = torch.linalg.vector_norm(kept, dim=1, keepdim=True, dtype=torch.float64)
    return (kept * ((1 - MARGIN) * clip_norm / norms.clamp(min=clip_norm))).to(torch.float32)


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
        """The features' own."""
        return self.features.draws(units, generator)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """The product of each unit, float ``[u]``."""
        clipped = clip_rows(self.features(network, images, labels, *draws), self.clip_norm)
        return (clipped * self.cotangent[labels]).sum(dim=1)


def feature_rows(network: nn.Module, features: UnitFeatures, part: UnitBatch, size: int) -> Tensor:
    """Features of at most ``size`` units, float32 ``[u, dimension]``, in a batch of that size."""
    whole = part.filled(size - len(part)).to(device_of(network))
    with torch.no_grad():
        rows = features(network, whole.images, whole.labels, *whole.draws)
    return rows[: len(part)].to(torch.float32)


def class_sums(
    network: nn.Module, features: UnitFeatures, batch: UnitBatch, query: AggregateQuery, size: int
) -> Tensor:
    """Σ of clipped features in steps of S · 2⁻²⁰, by class, int64 ``[rows, dimension]``."""
    shape = (query.rows, query.dimension)
    device = device_of(network)
    total = torch.zeros(shape, dtype=torch.int64, device=exact_device(device))

    def add(part: UnitBatch) -> None:
        values = feature_rows(network, features, part, size).to(total.device)
        for row in range(query.rows):
            for chosen in torch.nonzero(part.labels == row)[:, 0].split(EXACT_ROWS):
                add_clipped(total[row], some_rows(values, chosen)[0], query.clip_norm)

    for part in batch.split(size):
        add(part)
    return total


class AggregateAnswering(SampledAnswering[AggregateQuery]):
    """Answers the steps of an aggregate query, each part once; as :class:`Answering`."""

    def __init__(self, query: AggregateQuery, event: Event, run: OpenRun) -> None:
        super().__init__(query, event, run)
        self.forward_std, self.backward_std = query.noise_stds(event.noise_std)
        self._size: int | None = None

    def forward(self, step: int, network: nn.Module, features: UnitFeatures) -> Tensor:
        """The noisy class sums of ``step`` (from 0), float64 ``[rows, dimension]``.

        Raises:
            UsageError: the step is not the next one, or was forgotten, or the network has a layer
                with batch statistics.
            LedgerError: a stored answer is damaged, or the disk refuses to store this one.
            SfumatoError: the features fail on the private data (the message is withheld), let
                units see one another, or change the network.
        """
        check_no_batch_statistics(self.query.name, network)
        grid, device = self.query.clip_norm / UNIT, device_of(network)

        def total() -> Tensor:
            def of_size(most: int) -> Callable[[nn.Module, UnitBatch], Tensor]:
                size = self._independent_size(network, features, most)

                def sum_of(borrowed: nn.Module, batch: UnitBatch) -> Tensor:
                    return class_sums(borrowed, features, batch, self.query, size)

                return sum_of

            images = self._independent_size(network, features)
            return self._sum_over_sample(step, network, features, images, of_size)

        last = not self.query.backward
        size = self.query.rows * self.query.dimension
        steps = self._answer(step, "forward", total, size, self.forward_std / grid, last)
        return steps.double().to(exact_device(device)) * grid

    def pull_back(
        self, step: int, network: nn.Module, features: UnitFeatures, cotangent: Tensor
    ) -> Tensor:
        """The noisy sum of the gradients of the same sample, float64 ``[gradient_dimension]``.

        Raises:
            UsageError: the query has no such part, the step is not the newest one, the network
                has another number of parameters, or ``cotangent`` another shape than the sums.
            LedgerError, SfumatoError: as for the sums.
        """
        query, device = self.query, device_of(network)
        if not query.backward:
            raise UsageError(f"query {query.name!r} was planned without a gradient.")
        check_size(query.name, network, query.gradient_dimension)
        check_no_batch_statistics(query.name, network)
        if cotangent.shape != (query.rows, query.dimension):
            raise UsageError(
                f"query {query.name!r}: cotangent has shape {tuple(cotangent.shape)}, the sums "
                f"have {(query.rows, query.dimension)}."
            )
        loss = PulledBack(features, query.clip_norm, cotangent.detach().to(device))
        grid = query.gradient_clip_norm / UNIT

        def total() -> Tensor:
            first = distributed.is_first()
            newest = distributed.from_first(self._newest() if first else None)
            if step != newest:
                raise UsageError(
                    f"query {query.name!r}: the gradient of step={step} must be asked for after "
                    f"its sums and before those of the next; the newest step is {newest}."
                )

            def of_size(most: int) -> Callable[[nn.Module, UnitBatch], Tensor]:
                engine, images = self._engine_for(network, loss, most)
                clip_norm = query.gradient_clip_norm

                def sum_of(borrowed: nn.Module, batch: UnitBatch) -> Tensor:
                    return gradient_sum(borrowed, loss, batch, clip_norm, engine, images)

                return sum_of

            _, images = self._engine_for(network, loss)
            return self._sum_over_sample(step, network, loss, images, of_size)

        size = query.gradient_dimension
        steps = self._answer(step, "backward", total, size, self.backward_std / grid)
        return steps.double().to(exact_device(device)) * grid

    def _independent_size(
        self, network: nn.Module, features: UnitFeatures, most: int = IMAGES_AT_ONCE
    ) -> int:
        """The largest batch in which public units get the same features in any company."""
        if self._size is None or self._size > most:
            first = distributed.is_first()
            with lent(network) as borrowed:
                self._size = distributed.from_first(
                    self._measured_size(borrowed, features, most) if first else None
                )
        return self._size

    def _measured_size(self, network: nn.Module, features: UnitFeatures, most: int) -> int:
        public = public_batch(self._run.source.spec, features, device_of(network))
        for size in sorted({most, max(1, most // 8), 1}, reverse=True):

            def rows(part: UnitBatch, size: int = size) -> Tensor:
                parts = part.split(size)
                return torch.cat([feature_rows(network, features, p, size) for p in parts])

            try:
                if rows_are_independent(rows, public, max(size, len(public))):
                    return size
                full = False
            except torch.OutOfMemoryError:
                full = True
            free_memory(device_of(network))
        if full:
            raise SfumatoError(TOO_LITTLE_MEMORY)
        raise SfumatoError(
            f"query {self.query.name!r}: the features are others for the same unit. Draw their "
            "randomness in draws(), and keep no state between calls."
        )
