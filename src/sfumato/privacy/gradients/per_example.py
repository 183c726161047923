"""One number per unit bounds it all: Σ over units of the clipped gradient, computed three ways.

A unit's loss is the mean over its K draws (noise multiplicity, arXiv 2210.09929), so its gradient
is averaged *inside* the clip and the bound does not depend on K. The three ways give the same sum:

* ``loop``: one backward pass a unit, a batch of its K images; right for any network;
* ``vmap``: ``torch.func`` over a few units at once;
* ``layers``: one backward pass for a few units together that stops at each layer's output, then
  every layer's weight gradient unit by unit; for networks of convolutions, linear layers, group
  normalisations and embeddings, each used once a pass.

None ever holds more than one micro-batch of per-unit gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sfumato.errors import SfumatoError
from sfumato.privacy.gradients.layers import Recording, flatten, is_supported

IMAGES_AT_ONCE = 64
"""Images (units times multiplicity) whose activations are held at once."""

NORM_STRETCH = 2**16
NORM_ERROR = 2.0**-12
"""More than the rounding of 2¹⁶ float32 additions in vector lanes; bounds are tightened by it."""


@runtime_checkable
class Drawing(Protocol):
    """What needs randomness for each unit."""

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Independent draws for each of ``units`` units; dimension 0 of each tensor is the unit."""


@runtime_checkable
class UnitLoss(Drawing, Protocol):
    """The loss of each unit, and the randomness that it needs."""

    @property
    def multiplicity(self) -> int:
        """K, the number of draws that a unit's loss is the mean of."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``: uint8 ``[u, c, h, w]``, int64 ``[u]``, its draws.

        Each unit's K images must stand together in every layer's batch, in the units' order.
        """


@dataclass(frozen=True)
class Batch:
    """Units with their draws; dimension 0 of every tensor is the unit."""

    images: Tensor
    labels: Tensor
    draws: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index: Tensor | slice) -> Batch:
        """The units at ``index``."""
        draws = tuple(draw[index] for draw in self.draws)
        return Batch(self.images[index], self.labels[index], draws)

    def split(self, size: int) -> list[Batch]:
        """Parts of at most ``size`` units."""
        return [self.at(slice(start, start + size)) for start in range(0, len(self), size)]


TURNS, HOPELESS = 3, 1.5
"""How often each way is timed, unless it is so much slower than another; the best turn counts."""

Way = Callable[[nn.Module, UnitLoss, Batch], Tensor]
"""Gradients of a few units, float32 ``[u, parameters]``, each laid out by ``flatten``."""


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are asked for."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def by_loop(network: nn.Module, loss: UnitLoss, batch: Batch) -> Tensor:
    """Gradients unit by unit."""
    parameters = trained(network)
    rows = []
    for unit in batch.split(1):
        value = loss(network, unit.images, unit.labels, *unit.draws).sum()
        rows.append(torch.cat([flatten(g) for g in torch.autograd.grad(value, parameters)]))
    return torch.stack(rows).to(torch.float32)


def by_vmap(network: nn.Module, loss: UnitLoss, batch: Batch) -> Tensor:
    """Gradients of all units by ``torch.func``."""
    parameters = {k: p.detach() for k, p in network.named_parameters() if p.requires_grad}

    class Bound(nn.Module):
        """The loss as a module, so that ``functional_call`` can swap the network's weights."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, labels: Tensor, *draws: Tensor) -> Tensor:
            return loss(self.network, images, labels, *draws)

    bound = Bound()

    def unit_loss(weights: dict[str, Tensor], *unit: Tensor) -> Tensor:
        named = {f"network.{key}": value for key, value in weights.items()}
        value: Tensor = functional_call(bound, named, tuple(part[None] for part in unit))
        return value.sum()

    units = (batch.images, batch.labels, *batch.draws)
    in_dims = (None, *(0 for _ in units))
    gradients = vmap(grad(unit_loss), in_dims=in_dims)(parameters, *units)
    return torch.cat([flatten(g, 1) for g in gradients.values()], dim=1).to(torch.float32)


def by_layers(network: nn.Module, loss: UnitLoss, batch: Batch) -> Tensor:
    """Gradients of all units by book-keeping layer by layer."""
    with Recording(network) as recording:
        losses = loss(network, batch.images, batch.labels, *batch.draws)
        return recording.gradients(losses, trained(network))


WAYS: dict[str, Way] = {"layers": by_layers, "loop": by_loop, "vmap": by_vmap}


def units_at_once(loss: UnitLoss) -> int:
    """Units of one micro-batch."""
    return max(1, IMAGES_AT_ONCE // loss.multiplicity)


def clipped_sum(
    network: nn.Module, loss: UnitLoss, batch: Batch, clip_norm: float, way: str
) -> Tensor:
    """Σ over units of g · min(1, C / ‖g‖), float64 ``[parameters]``; zeros for no units.

    A unit whose gradient holds a NaN or an infinity adds nothing.
    """
    dimension = sum(parameter.numel() for parameter in trained(network))
    device = next(network.parameters()).device
    total = torch.zeros(dimension, dtype=torch.float64, device=device)
    for part in batch.split(units_at_once(loss)):
        rows = WAYS[way](network, loss, part)
        norms = row_norms(rows)
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            rows, norms = rows[finite], norms[finite]
        factors = (1 - NORM_ERROR) * clip_norm / norms.clamp(min=clip_norm)
        total += factors.to(torch.float32) @ rows
    return total


def row_norms(rows: Tensor) -> Tensor:
    """L2 norm of each row, float64 ``[u]``, to a relative ``NORM_ERROR``; infinite if it overflows.

    Squares are added in float32 over short stretches and in float64 beyond: all in float64 takes
    as long as a backward pass.
    """
    parts = [torch.linalg.vector_norm(part, dim=1) for part in rows.split(NORM_STRETCH, dim=1)]
    return torch.linalg.vector_norm(torch.stack(parts, dim=1).to(torch.float64), dim=1)


def fastest_way(
    network: nn.Module,
    loss: UnitLoss,
    public: Batch,
    clip_norm: float,
    accepts: Callable[[str], bool] = lambda name: True,
) -> str:
    """The fastest way on this machine, measured on public images; one that agrees with the loop.

    ``accepts`` may ask more of a way, given its name.

    Raises:
        SfumatoError: units of a batch influence one another even unit by unit.
    """
    part = public.split(units_at_once(loss))[0]
    expected = clipped_sum(network, loss, part, clip_norm, "loop")
    seconds: dict[str, float] = {}
    for name in WAYS:
        if name == "layers" and not is_supported(network):
            continue
        try:
            agrees = _agrees(clipped_sum(network, loss, part, clip_norm, name), expected)
        except (RuntimeError, NotImplementedError):
            continue  # an operation that this way does not know
        if agrees and accepts(name):
            turns = []
            for _ in range(TURNS):
                started = time.perf_counter()
                clipped_sum(network, loss, part, clip_norm, name)
                turns.append(time.perf_counter() - started)
                if turns[0] > HOPELESS * min(seconds.values(), default=math.inf):
                    break
            seconds[name] = min(turns)
    if not seconds:
        raise SfumatoError(
            "the loss gives different gradients for the same units. Draw its randomness in draws()."
        )
    return min(seconds, key=lambda name: seconds[name])


def _agrees(value: Tensor, expected: Tensor, share: float = 1e-2) -> bool:
    scale = torch.linalg.vector_norm(expected)
    return bool(torch.linalg.vector_norm(value - expected) <= share * scale + 1e-12)
