"""Work on Poisson samples, for the queries that are asked over them: gradient and aggregate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of
from sfumato.errors import LedgerError, SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.answering.base import Answering, Asked, OpenRun, foreign
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    MOST_IMAGES,
    UnitBatch,
    UnitLoss,
    UnitRandomness,
    engine_that_fits,
    same_bits,
    trained,
)
from sfumato.privacy.noise.poisson_sampling import poisson_sample
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.run import store

LEAST_PUBLIC_UNITS = 64

DRAWN_AT_ONCE = 256
"""Units that draws are made for at once on a GPU."""


class SampledAnswering(Answering[Asked]):
    """Answers over Poisson samples of the units, which all ranks share; as :class:`Answering`."""

    def __init__(self, query: Asked, event: Event, run: OpenRun) -> None:
        super().__init__(query, event, run)
        self._records: Records | None = None
        self._engine: tuple[str, int] | None = None

    def _sum_over_sample(
        self,
        step: int,
        network: nn.Module,
        randomness: UnitRandomness,
        images: int,
        of_size: Callable[[int], Callable[[nn.Module, UnitBatch], Tensor]],
    ) -> Tensor:
        """A sum over a copy of ``network`` and the step's sample, int64, over all ranks.

        Args:
            images: of a micro-batch, while they fit into the device's memory.
            of_size: what computes the sum with micro-batches of so many images; it measures on
                public images what it needs to know of them.
        """
        if self._records is None:
            self._run.check_same_data()
        with lent(network) as borrowed:

            def part(size: int) -> Tensor:
                sum_of = of_size(size)

                def work() -> Tensor:
                    batch = self._sample(step, randomness, device_of(borrowed))
                    return foreign(lambda: sum_of(borrowed, batch))

                return self._silently(work, f"step {step}")

            return distributed.add_up(self._halving(images, part))

    def _sample(self, step: int, randomness: UnitRandomness, device: torch.device) -> UnitBatch:
        """This rank's part of the step's sample, with its draws, in the host's memory."""
        if self._records is None:
            self._records = self._run.records
        name, rate = self.query.name, self.event.sampling_rate
        units = poisson_sample(self._records.units, rate, self._key.stream(f"sample {name}", step))
        index = self._records.one_each(units, self._key.stream(f"records {name}", step))
        # Every rank draws for the whole sample, so that the sum does not depend on their number.
        # Nothing has seen a record yet, so no unit can shift what another one draws.
        stream = self._key.torch_stream(f"draws {name}", step, device)
        mine = distributed.share(len(index))
        draws = foreign(lambda: host_draws(randomness, len(index), stream))
        images, labels = (torch.from_numpy(part) for part in self._records.take(index[mine]))
        usable = labels >= 0
        return UnitBatch(
            images[usable], labels[usable], tuple(draw[mine][usable] for draw in draws)
        )

    def _engine_for(
        self, network: nn.Module, loss: UnitLoss, most: int = MOST_IMAGES
    ) -> tuple[str, int]:
        """The fastest engine and the images of its micro-batches, ``most`` or fewer.

        Measured once a run, so that a resumed one repeats the last bits of rows.
        """
        if self._engine is None or self._engine[1] > most:
            first = distributed.is_first()
            self._engine = distributed.from_first(
                self._measured_engine(network, loss, most) if first else None
            )
        return self._engine

    def _measured_engine(self, network: nn.Module, loss: UnitLoss, most: int) -> tuple[str, int]:
        path = self.folder / "engine"
        if self._engine is not None or not path.exists():
            batch = public_batch(self._run.source.spec, loss, device_of(network))
            with lent(network) as borrowed:
                engine, images = engine_that_fits(borrowed, loss, batch, most)
            store(path, f"{engine} {images}".encode())
        engine, _, size = path.read_text().partition(" ")
        if engine not in ENGINES or not size.isdecimal():
            raise LedgerError(f"{path} is damaged. Remove it and run the same command again.")
        return engine, int(size)


@contextmanager
def lent(network: nn.Module) -> Iterator[nn.Module]:
    """A deep copy of ``network``, for code that sees private data; it is thrown away afterwards.

    Raises:
        SfumatoError: that code has changed the original all the same, in a parameter or a buffer;
            the original is put back as it was.
    """
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    try:
        yield copy.deepcopy(network)
    finally:
        after = network.state_dict()
        changed = [name for name in before if not same_bits(before[name], after.get(name))]
        if changed or len(after) != len(before):
            network.load_state_dict(before)
            raise SfumatoError(
                f"{type(network).__name__}: {', '.join(changed) or 'a tensor'} was changed while "
                "private data were seen. Only a noisy answer may change a network: keep no "
                "statistics, and use the network that is handed in."
            )


def check_no_batch_statistics(query: str, network: nn.Module) -> None:
    """Raise UsageError where a layer of ``network`` takes statistics over a batch."""
    for name, module in network.named_modules():
        kind = type(module).__name__
        if "BatchNorm" in kind or getattr(module, "track_running_stats", False):
            raise UsageError(
                f"query {query!r}: layer {name or kind} ({kind}) takes statistics over the batch, "
                "so one unit would change what another adds. Use GroupNorm."
            )


def check_size(query: str, network: nn.Module, dimension: int) -> None:
    """Raise UsageError unless ``network`` has ``dimension`` trained parameters."""
    size = sum(parameter.numel() for parameter in trained(network))
    if size != dimension:
        raise UsageError(
            f"query {query!r}: the network has {size} parameters, but the query was planned for "
            f"{dimension}."
        )


def host_draws(
    randomness: UnitRandomness, units: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Draws for ``units`` units in the host's memory, made in blocks of one size on a GPU.

    How many units are in a sample is private; so a GPU never holds more than one block.
    """
    if generator.device.type == "cpu":
        return randomness.draws(units, generator)
    blocks = [
        tuple(draw.cpu() for draw in randomness.draws(DRAWN_AT_ONCE, generator))
        for _ in range(max(1, -(-units // DRAWN_AT_ONCE)))
    ]
    return tuple(torch.cat(parts)[:units] for parts in zip(*blocks, strict=True))


def public_batch(spec: PublicSpec, randomness: UnitRandomness, device: torch.device) -> UnitBatch:
    """Random images with a public seed, to measure and to try things on."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (LEAST_PUBLIC_UNITS, spec.channels, spec.height, spec.width)
    images = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
    classes = max(len(spec.classes), 1)
    labels = torch.randint(classes, (len(images),), generator=generator, device=device)
    return UnitBatch(images, labels, randomness.draws(len(images), generator))
