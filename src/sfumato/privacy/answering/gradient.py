"""The steps of one gradient query: sample, clip, add up in integers, add noise, store, answer.

``docs/proofs/gradient.md``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sfumato.devices import device_of, exact_device
from sfumato.privacy.answering.sampled import (
    SampledAnswering,
    check_no_batch_statistics,
    check_size,
)
from sfumato.privacy.gradients.per_example import UnitBatch, UnitLoss, gradient_sum
from sfumato.privacy.gradients.sign_votes import VotingLoss, vote_sum
from sfumato.privacy.gradients.topagg import VOTE_BITS
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.gradient import GradientQuery


class GradientAnswering(SampledAnswering[GradientQuery]):
    """Answers the steps of a gradient query; arguments as for :class:`Answering`."""

    def answer(self, step: int, network: nn.Module, loss: UnitLoss) -> Tensor:
        """The noisy sum of ``step`` (from 0), float64 ``[parameters]``; the same when repeated.

        Raises:
            UsageError: the step is not the next one, or was forgotten, or the network has another
                number of parameters than the query, or a layer with batch statistics.
            LedgerError: a stored answer is damaged, or the disk refuses to store this one.
            SfumatoError: the loss fails on the private data (its message is withheld), lets units
                see one another, or changes the network.
        """
        check_size(self.query.name, network, self.query.dimension)
        check_no_batch_statistics(self.query.name, network)
        compress = self.query.compress
        grid = self.query.bound / UNIT if compress is None else 2.0**-VOTE_BITS
        asked = loss if compress is None else VotingLoss(loss, compress)

        def total() -> Tensor:
            def of_size(most: int) -> Callable[[nn.Module, UnitBatch], Tensor]:
                engine, images = self._engine_for(network, asked, most)

                def sum_of(borrowed: nn.Module, batch: UnitBatch) -> Tensor:
                    if compress is not None:
                        return vote_sum(borrowed, asked, batch, compress, engine, images)
                    return gradient_sum(borrowed, asked, batch, self.query.bound, engine, images)

                return sum_of

            _, images = self._engine_for(network, asked)
            return self._sum_over_sample(step, network, asked, images, of_size)

        size, std = self.query.dimension, self.event.noise_std / grid
        steps = self._answer(step, "sum", total, size, std)
        return steps.double().to(exact_device(device_of(network))) * grid
