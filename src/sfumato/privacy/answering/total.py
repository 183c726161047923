"""The answers to sum and histogram: one noisy total over all units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.privacy import distributed
from sfumato.privacy.answering import integer_sums
from sfumato.privacy.answering.base import Answering
from sfumato.privacy.answering.shard_sums import forget_partials, total_over_shards
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.base import TotalQuery
from sfumato.progress import Report, stage


@dataclass(frozen=True)
class Answer:
    """A noisy answer; all of it is public.

    ``total`` float64 ``[rows, d - shared]``, ``shared`` float64 ``[shared]``; whole multiples
    of C · 2⁻²⁰, rounded once to float64. ``noise_std`` is the noise's standard deviation per
    coordinate, in the units of both.
    """

    total: NDArray[np.float64]
    shared: NDArray[np.float64]
    noise_std: float


class SumAnswering(Answering[TotalQuery]):
    """Answers a sum or a histogram: the case of one step; as :class:`Answering`."""

    def answer(self) -> Answer:
        """The noisy total; the same when repeated.

        Raises:
            LedgerError: the stored answer or the ledger is damaged, or the disk refuses.
            SfumatoError: the query's function fails on the private data (its message is withheld).
        """
        spec, query = self._run.source.spec, self.query
        rows, columns = query.shape(len(spec.classes))
        step = query.bound / UNIT

        def exact() -> Tensor:
            self._run.check_same_data()
            quiet = self._run.quiet or not distributed.is_first()
            with stage("reading the private images", quiet) as report:
                return self._exact(report)

        grid = self._answer(
            0, "grid", exact, rows * columns + query.shared, self.event.noise_std / step
        )
        forget_partials(self._run.run, query)
        values = grid.numpy().astype(np.float64) * step
        return Answer(
            values[: rows * columns].reshape(rows, columns),
            values[rows * columns :],
            self.event.noise_std,
        )

    def _exact(self, report: Report) -> Tensor:
        """Σ of all contributions in grid steps, int64: over shards, ranks, or in this process."""
        query, source = self.query, self._run.source
        if source.cluster is not None:
            asker = self._run.asker
            if asker is None:
                raise UsageError("an engine needs the method: open it with curator.open(method).")
            return total_over_shards(query, asker, source, self._run.run, report)
        device = self._run.device

        def part(size: int) -> Tensor:
            batch, ranks = integer_sums.independent_work(query, source.spec, device, size)
            if distributed.rank() >= ranks:
                rows, columns = query.shape(len(source.spec.classes))
                return torch.zeros(rows * columns + query.shared, dtype=torch.int64)
            return self._silently(
                lambda: integer_sums.total(query, source, batch, report, ranks, device),
                "its function",
            )

        return distributed.add_up(self._halving(integer_sums.BATCH, part))
