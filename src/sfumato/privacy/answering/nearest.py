"""The steps of one nearest query: each unit votes for its nearest candidate, noise, store, answer.

``docs/proofs/nearest.md``. The features of all private records are computed once and kept in a file
without a name. They and the candidates' are whole numbers whose products float32 adds up exactly,
so that a record's vote does not depend on its mates in a matrix product, to the last bit.
"""

from __future__ import annotations

import math
import tempfile

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.errors import UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.answering.base import Answering, OpenRun
from sfumato.privacy.answering.integer_sums import BATCH, contributed, independent_work
from sfumato.privacy.answering.total import Answer
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.nearest import NearestQuery
from sfumato.progress import stage

LONGEST = 4095
"""The largest norm of a row of whole numbers: all sums of products stay below 4095² < 2²⁴."""

SCORES_IN_MEMORY = 2**24


class NearestAnswering(Answering[NearestQuery]):
    """Answers the steps of a nearest query; arguments as for :class:`Answering`."""

    def __init__(self, query: NearestQuery, event: Event, run: OpenRun) -> None:
        super().__init__(query, event, run)
        self._voters: Voters | None = None

    def answer(
        self, step: int, candidates: NDArray[np.float32], labels: NDArray[np.int64] | None
    ) -> Answer:
        """The noisy votes of ``step`` (from 0), ``total`` ``[1, bins]``; the same when repeated.

        Raises:
            UsageError: the step is not the next one and is not stored, or the candidates have
                another shape than the query's.
            LedgerError: a stored answer or the ledger is damaged, or the disk refuses.
            SfumatoError: the features fail on the private data (their message is withheld).
        """
        shape = (self.query.bins, self.query.width)
        if candidates.shape != shape or (labels is not None and labels.shape != shape[:1]):
            raise UsageError(
                f"query {self.query.name!r}: there must be {shape[0]} candidates of {shape[1]} "
                "features, and a label for each or none at all."
            )
        # The same on every rank, so that a record's vote is the same wherever it is cast.
        whole, of_class = distributed.from_first((whole_rows(candidates), labels))

        def votes() -> torch.Tensor:
            if self._voters is None:
                self._voters = self._read()
            voters = self._voters
            return distributed.add_up(
                self._silently(lambda: voters.votes(whole, of_class), f"step {step}")
            )

        size, std = self.query.bins, self.event.noise_std * UNIT
        grid = self._answer(step, "votes", votes, size, std)
        total = grid.numpy().astype(np.float64) / UNIT
        return Answer(total[None], np.zeros(0), self.event.noise_std)

    def _read(self) -> Voters:
        first, run = distributed.is_first(), self._run
        run.check_same_data()

        def of_size(size: int) -> Voters:
            work = independent_work(self.query, run.source.spec, run.device, size)
            return self._silently(lambda: read(*work), "its features")

        def read(batch: int, ranks: int) -> Voters:
            labels, bounds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            with (
                stage("reading the private images", run.quiet or not first) as report,
                tempfile.TemporaryFile(dir=run.run.folder) as file,
            ):
                for part in contributed(self.query, run.source, batch, report, ranks, run.device):
                    file.write(whole_rows(part.values.cpu().numpy()).tobytes())
                    labels.append(part.labels)
                    bounds.append(part.bounds)
                    del part  # before the next comes: none may need more memory than the first
                file.flush()
                shape = (sum(map(len, labels)), self.query.width)
                empty = np.zeros(shape, np.int16)
                rows = np.memmap(file, np.int16, "r", shape=shape) if shape[0] else empty
            return Voters(rows, np.concatenate(labels), np.concatenate(bounds))

        return self._halving(BATCH, of_size)


class Voters:
    """This rank's private records: features, labels, and how much of a vote each has. PRIVATE.

    Args:
        rows: int16 ``[records, width]`` as :func:`whole_rows` makes them.
        labels: int64 ``[records]``, -1 where a record has no vote.
        bounds: int64 ``[records]``, the vote of each in steps of 2⁻²⁰.
    """

    def __init__(
        self, rows: NDArray[np.int16], labels: NDArray[np.int64], bounds: NDArray[np.int64]
    ) -> None:
        self._rows, self._labels, self._bounds = rows, labels, bounds

    def votes(
        self, candidates: NDArray[np.int16], labels: NDArray[np.int64] | None
    ) -> torch.Tensor:
        """Votes for each candidate in steps of 2⁻²⁰, int64 ``[bins]``.

        Args:
            candidates: int16 ``[bins, width]`` as :func:`whole_rows` makes them.
            labels: int64 ``[bins]``: only records of the same label vote for a candidate; None: all
                records vote for any.
        """
        total = np.zeros(len(candidates), np.int64)
        if labels is None:
            self._add(total, self._labels >= 0, candidates, np.arange(len(candidates)))
        else:
            for label in np.unique(labels[labels >= 0]):
                places = np.flatnonzero(labels == label)
                self._add(total, self._labels == label, candidates[places], places)
        return torch.from_numpy(total)

    def _add(
        self,
        total: NDArray[np.int64],
        voting: NDArray[np.bool_],
        candidates: NDArray[np.int16],
        places: NDArray[np.int64],
    ) -> None:
        wide = candidates.astype(np.float32)
        lengths = np.maximum(np.sqrt((wide.astype(np.float64) ** 2).sum(axis=1)), 1)
        voters, block = np.flatnonzero(voting), max(1, SCORES_IN_MEMORY // len(wide))
        for start in range(0, len(voters), block):
            chosen = voters[start : start + block]
            rows = self._rows[chosen].astype(np.float32)
            # Exact products, then one division each: the same bits in whatever block a row stands.
            scores = (rows @ wide.T) / lengths.astype(np.float32)
            bounds = np.where(rows.any(axis=1), self._bounds[chosen], 0)
            np.add.at(total, places[scores.argmax(axis=1)], bounds)


def whole_rows(features: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rows of whole numbers in the direction of float rows, int16, of norm at most 4095.

    A row with a value that is not finite, or of norm 0, becomes zero.
    """
    rows = features.astype(np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = 0
    rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    # Rounding moves a row by at most half a step in each coordinate.
    length = LONGEST - math.sqrt(features.shape[1]) / 2
    return np.rint(rows * (length / np.maximum(norms, 1))).astype(np.int16)
