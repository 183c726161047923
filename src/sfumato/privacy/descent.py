"""The steps of one gradient query: sample, clip, add up, add noise, store, answer.

A step's answer is on disk before it leaves, so a killed run is given the same answers again and no
step is ever answered twice; ``docs/proofs.md``, "gradient".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.data.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import LedgerError, SfumatoError, UsageError
from sfumato.privacy import world
from sfumato.privacy.per_example import (
    WAYS,
    Batch,
    UnitLoss,
    clipped_sum,
    fastest_way,
    trained,
)
from sfumato.privacy.queries import GradientQuery
from sfumato.privacy.records import Records
from sfumato.privacy.runs import store
from sfumato.privacy.sampling import Key, poisson_sample
from sfumato.privacy.steps import StepAnswers

PUBLIC_UNITS = 16


class Descent:
    """Answers the steps of ``query``, in order, each once.

    Args:
        query: what the plan paid for.
        noise_std: the calibrated noise, in the units of the gradient.
        source: the private images; decoded before the first step that is not yet answered.
        folder: the run's private folder, on a file system that all ranks see.
        key: the run's secret randomness.
        check: called before private data are read; raises where they have changed.
    """

    def __init__(
        self,
        query: GradientQuery,
        noise_std: float,
        source: ImageSource,
        folder: Path,
        key: Key,
        check: Callable[[], None],
    ) -> None:
        self.query, self.noise_std = query, noise_std
        self._source, self._key, self._check = source, key, check
        self._run_folder, self._answers = folder, StepAnswers(query, folder)
        self._records: Records | None = None
        self._way: str | None = None

    def answer(self, step: int, network: nn.Module, loss: UnitLoss) -> Tensor:
        """The noisy sum of ``step`` (from 0), float32 ``[parameters]``; the same when repeated.

        Raises:
            UsageError: the step is not the next one, or was forgotten, or the network has another
                number of parameters than the query.
            LedgerError: a stored answer is damaged, or the disk refuses to store this one.
            SfumatoError: the loss fails on the private data (its message is withheld).
        """
        parameters = trained(network)
        size = sum(parameter.numel() for parameter in parameters)
        if size != self.query.dimension:
            raise UsageError(
                f"query {self.query.name!r}: the network has {size} parameters, but the query was "
                f"planned for {self.query.dimension}."
            )
        device = parameters[0].device
        known = world.from_first(self._answers.stored(step) if world.is_first() else None)
        if known:
            return known["sum"].to(device)
        total = self._clipped_sum(step, network, loss)
        answer = torch.empty(size)
        if world.is_first():
            stream = self._key.stream(f"noise {self.query.name}", step)
            noise = torch.from_numpy(stream.standard_normal(size)) * self.noise_std
            answer = (total.cpu() + noise).to(torch.float32)
            self._answers.keep(step, {"sum": answer})
        return world.tensor_from_first(answer.to(device))

    def forget(self, before: int) -> None:
        """Drop stored answers that a checkpoint has made needless; the newest is always kept."""
        if world.is_first():
            self._answers.forget(before)

    def _clipped_sum(self, step: int, network: nn.Module, loss: UnitLoss) -> Tensor:
        if self._way is None:
            way = self._chosen_way(network, loss) if world.is_first() else None
            self._way = world.from_first(way)
        if self._records is None and world.is_first():
            self._check()
        # Silent, because the text of a warning or an error may quote what a record holds.
        with quiet():
            try:
                batch = self._batch(step, loss, next(network.parameters()).device)
                total = clipped_sum(network, loss, batch, self.query.clip_norm, self._way)
            except Exception as error:
                failure = type(error).__name__
            else:
                return world.add_up(total)
        # Raised outside the handler: chained errors would carry the private text along.
        raise SfumatoError(
            f"query {self.query.name!r}: step {step} failed with {failure} on the private data "
            "(the message is withheld). The budget stays charged; the run can go on once it is "
            "mended."
        )

    def _batch(self, step: int, loss: UnitLoss, device: torch.device) -> Batch:
        """This rank's part of the step's sample, with its draws."""
        if self._records is None:
            self._records = Records(self._source, self._run_folder)
        name, rate = self.query.name, self.query.sampling_rate
        index = poisson_sample(len(self._records), rate, self._key.stream(f"sample {name}", step))
        # Every rank draws for the whole sample, so that the sum does not depend on their number.
        stream = self._key.torch_stream(f"draws {name}", step, device)
        mine = world.share(len(index))
        draws = tuple(draw[mine] for draw in loss.draws(len(index), stream))
        images, labels = (torch.from_numpy(part) for part in self._records.take(index[mine]))
        usable = labels >= 0
        return Batch(
            images[usable].to(device),
            labels[usable].to(device),
            tuple(draw[usable.to(device)] for draw in draws),
        )

    def _chosen_way(self, network: nn.Module, loss: UnitLoss) -> str:
        """The fastest way, measured once a run: a resumed one repeats the last bits of its sums."""
        path = self._answers.folder / "way"
        if not path.exists():
            store(path, self._fastest_way(network, loss).encode())
        way = path.read_text()
        if way not in WAYS:
            raise LedgerError(f"{path} is damaged. Remove it and run the same command again.")
        return way

    def _fastest_way(self, network: nn.Module, loss: UnitLoss) -> str:
        device = next(network.parameters()).device
        batch = public_batch(self._source.spec, loss, device)
        return fastest_way(network, loss, batch, self.query.clip_norm)


def public_batch(spec: PublicSpec, loss: UnitLoss, device: torch.device) -> Batch:
    """Random images with a public seed, to measure and to try things on."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (PUBLIC_UNITS, spec.channels, spec.height, spec.width)
    images = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
    classes = max(len(spec.classes), 1)
    labels = torch.randint(classes, (PUBLIC_UNITS,), generator=generator, device=device)
    return Batch(images, labels, loss.draws(PUBLIC_UNITS, generator))
