"""Gradients of single units, computed by three engines, clipped on the integer grid and added up.

A unit's loss is the mean over its K draws (noise multiplicity, arXiv 2210.09929), so its gradient
is averaged *inside* the clip and the bound does not depend on K. The engines:

* ``loop``: one backward pass a unit, a batch of its K images; right for any network;
* ``vmap``: ``torch.func`` over a few units at once;
* ``layers``: one backward pass for a few units together that stops at each layer's output, then
  every layer's weight gradient unit by unit; for networks of convolutions, linear layers, group
  normalisations and embeddings, each used once a pass.

None ever holds more than one micro-batch of per-unit gradients. Micro-batches have one fixed shape,
filled up with black images, and an engine is used only if public images get the same bits from it
in any company: what a unit adds must be its own (``docs/proofs/units.md``, "Each unit on its own").
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

from sfumato.devices import (
    TOO_LITTLE_MEMORY,
    device_of,
    exact_device,
    finish,
    free_memory,
    sent,
)
from sfumato.errors import SfumatoError
from sfumato.privacy.clipping import add_clipped
from sfumato.privacy.gradients.layers import Recording, flatten, is_supported

IMAGES_AT_ONCE = 64
"""Images (units times multiplicity) whose activations are held at once."""

MOST_IMAGES, MEMORY_SHARE = 4096, 0.5
"""Bounds of a micro-batch on a GPU: images, and the share of the free memory that it may take."""

CROWDS = 4
"""In how many crowds, of different sizes, a unit's gradient is compared bit by bit."""


@runtime_checkable
class UnitRandomness(Protocol):
    """What needs randomness for each unit."""

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Independent draws for each of ``units`` units; dimension 0 of each tensor is the unit."""


@runtime_checkable
class UnitLoss(UnitRandomness, Protocol):
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
class UnitBatch:
    """Units with their draws; dimension 0 of every tensor is the unit."""

    images: Tensor
    labels: Tensor
    draws: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> UnitBatch:
        """The units on ``device``."""
        draws = tuple(sent(draw, device) for draw in self.draws)
        return UnitBatch(sent(self.images, device), sent(self.labels, device), draws)

    def at(self, index: Tensor | slice) -> UnitBatch:
        """The units at ``index``."""
        draws = tuple(draw[index] for draw in self.draws)
        return UnitBatch(self.images[index], self.labels[index], draws)

    def filled(self, missing: int) -> UnitBatch:
        """So many units more: black, of label 0, with zeros for draws."""
        if missing == 0:
            return self

        def more(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])

        draws = tuple(more(draw) for draw in self.draws)
        return UnitBatch(more(self.images), more(self.labels), draws)

    def split(self, size: int) -> list[UnitBatch]:
        """Parts of at most ``size`` units."""
        return [self.at(slice(start, start + size)) for start in range(0, len(self), size)]


TURNS, HOPELESS = 3, 1.5
"""How often each engine is timed, unless it is so much slower than another; the best counts."""

Engine = Callable[[nn.Module, UnitLoss, UnitBatch], Tensor]
"""Gradients of a few units, float32 ``[u, parameters]``, each laid out by ``flatten``."""


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are asked for."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def by_loop(network: nn.Module, loss: UnitLoss, batch: UnitBatch) -> Tensor:
    """Gradients unit by unit."""
    parameters = trained(network)
    rows = []
    for unit in batch.split(1):
        value = loss(network, unit.images, unit.labels, *unit.draws).sum()
        rows.append(torch.cat([flatten(g) for g in torch.autograd.grad(value, parameters)]))
    return torch.stack(rows).to(torch.float32)


def by_vmap(network: nn.Module, loss: UnitLoss, batch: UnitBatch) -> Tensor:
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


def by_layers(network: nn.Module, loss: UnitLoss, batch: UnitBatch) -> Tensor:
    """Gradients of all units by book-keeping layer by layer."""
    with Recording(network) as recording:
        losses = loss(network, batch.images, batch.labels, *batch.draws)
        return recording.gradients(losses, trained(network))


ENGINES: dict[str, Engine] = {"layers": by_layers, "loop": by_loop, "vmap": by_vmap}


def units_at_once(loss: UnitLoss, images: int | None = None) -> int:
    """Units of one micro-batch of so many images, 64 by default."""
    return max(1, (images or IMAGES_AT_ONCE) // loss.multiplicity)


def unit_gradients(
    network: nn.Module,
    loss: UnitLoss,
    part: UnitBatch,
    engine: str,
    images: int | None = None,
) -> Tensor:
    """Gradients of at most a micro-batch of units, in one that is filled up with black images."""
    return filled_gradients(network, loss, part, engine, images)[: len(part)]


def filled_gradients(
    network: nn.Module,
    loss: UnitLoss,
    part: UnitBatch,
    engine: str,
    images: int | None = None,
) -> Tensor:
    """Gradients of a micro-batch that ``part`` begins: zeros for the black images that fill it up.

    Units come to the network's device when the micro-batch is full, so that what lies there does
    not show how many there were.
    """
    device = device_of(network)
    missing = units_at_once(loss, images) - len(part)
    if engine == "loop" and device.type == "cpu":
        missing = 0
    rows = ENGINES[engine](network, loss, part.filled(missing).to(device))
    rows[len(part) :] = 0
    return rows


def gradient_sum(
    network: nn.Module,
    loss: UnitLoss,
    batch: UnitBatch,
    clip_norm: float,
    engine: str,
    images: int | None = None,
) -> Tensor:
    """Σ over units of clipped gradients in steps of C · 2⁻²⁰, int64 ``[parameters]``.

    A unit whose gradient holds a NaN or an infinity adds nothing. Nothing of a micro-batch is left
    on the network's device when the next one comes.
    """
    dimension = sum(parameter.numel() for parameter in trained(network))
    device = device_of(network)
    total = torch.zeros(dimension, dtype=torch.int64, device=exact_device(device))

    def add(part: UnitBatch) -> None:
        rows = filled_gradients(network, loss, part, engine, images)
        add_clipped(total, rows.to(total.device), clip_norm)

    for part in batch.split(units_at_once(loss, images)):
        add(part)
    return total


def fastest_engine(
    network: nn.Module, loss: UnitLoss, public: UnitBatch, images: int | None = None
) -> str:
    """The fastest engine on this machine, measured on public images, of those that are right.

    It agrees with the loop, and no unit changes another one's gradient, not even its last bit.

    Raises:
        SfumatoError: units influence one another even one by one.
    """
    part = public.split(units_at_once(loss, images))[0]
    expected = unit_gradients(network, loss, part, "loop", images)
    seconds: dict[str, float] = {}
    for name in ENGINES:
        if name == "layers" and not is_supported(network):
            continue
        try:
            agrees = _agrees(unit_gradients(network, loss, part, name, images), expected)
        except torch.OutOfMemoryError:
            raise  # a RuntimeError too, but a smaller micro-batch may fit
        except (RuntimeError, NotImplementedError):
            continue  # an operation that this engine does not know
        if agrees:
            turns = []
            for _ in range(TURNS):
                started = time.perf_counter()
                unit_gradients(network, loss, part, name, images)
                finish(device_of(network))
                turns.append(time.perf_counter() - started)
                if turns[0] > HOPELESS * min(seconds.values(), default=math.inf):
                    break
            seconds[name] = min(turns)
    for name in sorted(seconds, key=lambda name: seconds[name]):
        if units_are_independent(network, loss, part, name, images):
            return name
    raise SfumatoError(
        "the loss gives different gradients for the same units. Draw its randomness in draws(), "
        "keep no state between calls, and let no unit see another one."
    )


def engine_that_fits(
    network: nn.Module, loss: UnitLoss, public: UnitBatch, most: int = MOST_IMAGES
) -> tuple[str, int]:
    """The fastest engine, and how many images of a micro-batch fit into the device's memory.

    Raises:
        SfumatoError: the device has too little memory for one unit; as :func:`fastest_engine`.
    """
    images, engine = min(most, IMAGES_AT_ONCE), ""
    while not engine:
        try:
            engine = fastest_engine(network, loss, public, images)
        except torch.OutOfMemoryError:
            if images == 1:
                break
            images = most = images // 2
        free_memory(device_of(network))
    if not engine:
        raise SfumatoError(TOO_LITTLE_MEMORY)
    more = images if engine == "loop" else min(most, images_at_once(network, loss, public, engine))
    while more > images:
        try:
            if units_are_independent(network, loss, public, engine, more):
                return engine, more
        except torch.OutOfMemoryError:
            pass
        free_memory(device_of(network))
        more //= 2
    return engine, images


def images_at_once(network: nn.Module, loss: UnitLoss, public: UnitBatch, engine: str) -> int:
    """Images of a micro-batch: 64 times a power of two, as many as a GPU's free memory holds."""
    device = device_of(network)
    if device.type != "cuda":
        return IMAGES_AT_ONCE
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    unit_gradients(network, loss, public.split(units_at_once(loss))[0], engine)
    taken = max(1, torch.cuda.max_memory_allocated(device) - before)
    free, _ = torch.cuda.mem_get_info(device)
    times = min(MOST_IMAGES // IMAGES_AT_ONCE, int(MEMORY_SHARE * free) // taken)
    return IMAGES_AT_ONCE << max(0, times.bit_length() - 1)


def units_are_independent(
    network: nn.Module,
    loss: UnitLoss,
    public: UnitBatch,
    engine: str,
    images: int | None = None,
) -> bool:
    """Whether a unit's gradient has the same bits wherever and beside whomever it stands."""

    def rows(part: UnitBatch) -> Tensor:
        return unit_gradients(network, loss, part, engine, images)

    size = units_at_once(loss, images)
    return rows_are_independent(rows, public.split(size)[0], size)


def rows_are_independent(rows: Callable[[UnitBatch], Tensor], public: UnitBatch, size: int) -> bool:
    """Whether each unit's row of ``rows(units)`` has the same bits in any company.

    ``rows`` is called with crowds of ``public`` units, of ``size`` and smaller.
    """
    expected = rows(public)
    generator = torch.Generator().manual_seed(0)
    for count in [size, *range(size, 0, -max(1, size // CROWDS))]:
        crowd = torch.randint(len(public), (count,), generator=generator).to(public.labels.device)
        if not same_bits(rows(public.at(crowd)), expected[crowd]):
            return False
    return True


def same_bits(first: Tensor, second: Tensor | None) -> bool:
    """Whether two tensors agree in dtype, shape and every bit, also in those of a NaN."""
    if second is None or first.shape != second.shape or first.dtype != second.dtype:
        return False
    one, other = (t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (first, second))
    return torch.equal(one, other)


def _agrees(value: Tensor, expected: Tensor, share: float = 1e-2) -> bool:
    scale = torch.linalg.vector_norm(expected)
    return bool(torch.linalg.vector_norm(value - expected) <= share * scale + 1e-12)
