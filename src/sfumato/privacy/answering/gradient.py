"""The steps of one gradient query: sample, clip, add up, add noise, store, answer.

A step's answer is on disk before it leaves, so a killed run is given the same answers again and no
step is ever answered twice; ``docs/proofs.md``, "gradient".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.data.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import LedgerError, SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.answering.stored_steps import StepAnswers
from sfumato.privacy.gradients.per_example import (
    WAYS,
    Batch,
    Drawing,
    UnitLoss,
    clipped_sum,
    fastest_way,
    trained,
)
from sfumato.privacy.gradients.sign_votes import VotingLoss, summed_votes, units_are_alone
from sfumato.privacy.noise.keys import Key
from sfumato.privacy.noise.poisson_sampling import poisson_sample
from sfumato.privacy.queries.gradient import GradientQuery
from sfumato.privacy.queries.kinds import SampledQuery
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.run import store

PUBLIC_UNITS = 16


class Sampled:
    """Work on Poisson samples: shared by ranks, silent about private data, its noise drawn once.

    Args:
        query: what the plan paid for.
        noise_std: the calibrated noise of its event.
        source: the private images; decoded before the first step that is not yet answered.
        folder: the run's private folder, on a file system that all ranks see.
        key: the run's secret randomness.
        check: called before private data are read; raises where they have changed.
    """

    def __init__(
        self,
        query: SampledQuery,
        noise_std: float,
        source: ImageSource,
        folder: Path,
        key: Key,
        check: Callable[[], None],
    ) -> None:
        self.noise_std = noise_std
        self._planned = query
        self._source, self._key, self._check = source, key, check
        self._run_folder, self._answers = folder, StepAnswers(query, folder)
        self._records: Records | None = None
        self._way: str | None = None

    def forget(self, before: int) -> None:
        """Drop stored answers that a checkpoint has made needless; the newest is always kept."""
        if distributed.is_first():
            self._answers.forget(before)

    def _stored(self, step: int) -> dict[str, Tensor]:
        return distributed.from_first(
            self._answers.stored(step) if distributed.is_first() else None
        )

    def _noisy(self, total: Tensor, noise_std: float, purpose: str, step: int) -> Tensor:
        """``total`` as float32 with noise from the stream of ``purpose``; only rank 0's counts."""
        if not distributed.is_first():
            return torch.empty(total.shape)
        stream = self._key.stream(f"{purpose} {self._planned.name}", step)
        noise = torch.from_numpy(stream.standard_normal(total.shape)) * noise_std
        return (total.cpu() + noise).to(torch.float32)

    def _sum_over_sample(
        self, step: int, drawing: Drawing, device: torch.device, sum_of: Callable[[Batch], Tensor]
    ) -> Tensor:
        """``sum_of`` the step's sample, added up over the ranks."""
        if self._records is None and distributed.is_first():
            self._check()
        # Silent, because the text of a warning or an error may quote what a record holds.
        with quiet():
            try:
                total = sum_of(self._batch(step, drawing, device))
            except Exception as error:
                failure = type(error).__name__
            else:
                return distributed.add_up(total)
        # Raised outside the handler: chained errors would carry the private text along.
        raise SfumatoError(
            f"query {self._planned.name!r}: step {step} failed with {failure} on the private data "
            "(the message is withheld). The budget stays charged; the run can go on once it is "
            "mended."
        )

    def _batch(self, step: int, drawing: Drawing, device: torch.device) -> Batch:
        """This rank's part of the step's sample, with its draws."""
        if self._records is None:
            self._records = Records(self._source, self._run_folder)
        name, rate = self._planned.name, self._planned.sampling_rate
        units = poisson_sample(self._records.units, rate, self._key.stream(f"sample {name}", step))
        index = self._records.one_each(units, self._key.stream(f"records {name}", step))
        # Every rank draws for the whole sample, so that the sum does not depend on their number.
        stream = self._key.torch_stream(f"draws {name}", step, device)
        mine = distributed.share(len(index))
        draws = tuple(draw[mine] for draw in drawing.draws(len(index), stream))
        images, labels = (torch.from_numpy(part) for part in self._records.take(index[mine]))
        usable = labels >= 0
        return Batch(
            images[usable].to(device),
            labels[usable].to(device),
            tuple(draw[usable.to(device)] for draw in draws),
        )

    def _way_for(
        self, network: nn.Module, loss: UnitLoss, clip_norm: float, alone: bool = False
    ) -> str:
        if self._way is None:
            first = distributed.is_first()
            self._way = distributed.from_first(
                self._chosen_way(network, loss, clip_norm, alone) if first else None
            )
        return self._way

    def _chosen_way(self, network: nn.Module, loss: UnitLoss, clip_norm: float, alone: bool) -> str:
        """The fastest way, measured once a run: a resumed one repeats the last bits of its sums."""
        path = self._answers.folder / "way"
        if not path.exists():
            device = next(network.parameters()).device
            batch = public_batch(self._source.spec, loss, device)
            asked = (partial(units_are_alone, network, loss, batch),) if alone else ()
            store(path, fastest_way(network, loss, batch, clip_norm, *asked).encode())
        way = path.read_text()
        if way not in WAYS:
            raise LedgerError(f"{path} is damaged. Remove it and run the same command again.")
        return way


class Descent(Sampled):
    """Answers the steps of ``query``, in order, each once; arguments as for :class:`Sampled`."""

    def __init__(
        self,
        query: GradientQuery,
        noise_std: float,
        source: ImageSource,
        folder: Path,
        key: Key,
        check: Callable[[], None],
    ) -> None:
        super().__init__(query, noise_std, source, folder, key, check)
        self.query = query

    def answer(self, step: int, network: nn.Module, loss: UnitLoss) -> Tensor:
        """The noisy sum of ``step`` (from 0), float32 ``[parameters]``; the same when repeated.

        Raises:
            UsageError: the step is not the next one, or was forgotten, or the network has another
                number of parameters than the query.
            LedgerError: a stored answer is damaged, or the disk refuses to store this one.
            SfumatoError: the loss fails on the private data (its message is withheld).
        """
        check_size(self.query.name, network, self.query.dimension)
        device = next(network.parameters()).device
        known = self._stored(step)
        if known:
            return known["sum"].to(device)
        bound, compress = self.query.bound, self.query.compress
        if compress is not None:
            loss = VotingLoss(loss, compress)
        way = self._way_for(network, loss, bound, compress is not None)

        def sum_of(batch: Batch) -> Tensor:
            if compress is not None:
                return summed_votes(network, loss, batch, compress, way)
            return clipped_sum(network, loss, batch, bound, way)

        total = self._sum_over_sample(step, loss, device, sum_of)
        answer = self._noisy(total, self.noise_std, "noise", step)
        if distributed.is_first():
            self._answers.keep(step, {"sum": answer})
        return distributed.tensor_from_first(answer.to(device))


def check_size(name: str, network: nn.Module, dimension: int) -> None:
    """Raise UsageError unless ``network`` has ``dimension`` trained parameters."""
    size = sum(parameter.numel() for parameter in trained(network))
    if size != dimension:
        raise UsageError(
            f"query {name!r}: the network has {size} parameters, but the query was planned for "
            f"{dimension}."
        )


def public_batch(spec: PublicSpec, loss: UnitLoss, device: torch.device) -> Batch:
    """Random images with a public seed, to measure and to try things on."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (PUBLIC_UNITS, spec.channels, spec.height, spec.width)
    images = torch.randint(256, shape, generator=generator, device=device, dtype=torch.uint8)
    classes = max(len(spec.classes), 1)
    labels = torch.randint(classes, (PUBLIC_UNITS,), generator=generator, device=device)
    return Batch(images, labels, loss.draws(PUBLIC_UNITS, generator))
