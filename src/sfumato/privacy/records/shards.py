"""Disjoint shards of the units, each unit's an independent draw that looks at nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfumato.privacy.noise.entropy import Stream
from sfumato.privacy.records.decoded import Records


class Shards:
    """The records of ``teachers`` shards.

    Args:
        records: the private records; each belongs to one unit.
        teachers: N, the number of shards.
        stream: secret randomness; a unit's shard is uniform and independent of everything else.
    """

    def __init__(self, records: Records, teachers: int, stream: Stream) -> None:
        self._records, self.teachers = records, teachers
        shard_of_unit = stream.below(teachers, records.units).astype(np.int64)
        usable = np.flatnonzero((records.owner >= 0) & (records.labels >= 0))
        shard = shard_of_unit[records.owner[usable]]
        order = np.argsort(shard, kind="stable")
        self._members = usable[order]
        self._start = np.searchsorted(shard[order], np.arange(teachers + 1))

    def members(self, teacher: int) -> NDArray[np.int64]:
        """The records of one shard, in the data set's order."""
        return self._members[self._start[teacher] : self._start[teacher + 1]]

    def batch(
        self, teachers: NDArray[np.int64], size: int, uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
        """At most ``size`` records of each given teacher.

        Args:
            teachers: int64 ``[n]``; -1 stands for a teacher without records.
            uniform: ``[n]`` in [0, 1), where in its shard each teacher starts if not all fit.

        Returns:
            Images uint8 ``[n, size, c, h, w]``, labels int64 ``[n, size]`` and which of them are
            there, bool ``[n, size]``; what is not there is black with label 0.
        """
        begin = self._start[teachers]
        length = np.where(teachers >= 0, self._start[teachers + 1] - begin, 0)
        offset = np.where(length > size, np.floor(uniform * length), 0).astype(np.int64)
        place = np.arange(size)[None]
        there = place < length[:, None]
        index = begin[:, None] + (offset[:, None] + place) % np.maximum(length, 1)[:, None]
        images = np.zeros((*there.shape, *self._records.shape), np.uint8)
        labels = np.zeros(there.shape, np.int64)
        images[there], labels[there] = self._records.take(self._members[index[there]])
        return images, labels, there
