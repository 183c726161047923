"""Private records that can be read in any order: decoded once, into a file without a name."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.data.source import ImageSource
from sfumato.privacy.noise.entropy import Stream
from sfumato.privacy.records.units import units_of

READ_BATCH = 256


class Records:
    """A data set's images and labels, in its fixed order, and the units that they belong to.

    ``labels`` int64 ``[records]``, -1 where a record is unusable; ``shape`` ``(c, h, w)``. The
    pixels lie in a file in ``folder`` that is unlinked as soon as it is open: memory stays flat,
    and not even a killed process leaves private pixels behind.
    """

    def __init__(self, source: ImageSource, folder: Path) -> None:
        spec = source.spec
        labels: list[NDArray[np.int64]] = []
        self._pixels = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._pixels.close)
        for images, batch_labels in source.batches(READ_BATCH):
            self._pixels.write(np.ascontiguousarray(images).data)
            labels.append(batch_labels)
        self.labels = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        self.shape = (spec.channels, spec.height, spec.width)
        self._units = units_of(source)
        if self._units is not None:
            self._units.check(len(self.labels))

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.labels) if self._units is None else len(self._units)

    @property
    def owner(self) -> NDArray[np.int64]:
        """The unit of each record, int64 ``[records]``; -1 where a record is surplus."""
        return np.arange(len(self.labels)) if self._units is None else self._units.owner

    def one_each(self, units: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """A record of each given unit, int64 ``[u]``: one of its own, chosen uniformly."""
        return units if self._units is None else self._units.one_each(units, stream)

    def take(self, index: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 ``[b, c, h, w]`` and labels int64 ``[b]``; -1 where a record is unusable."""
        # Read, not mapped: pages of a map would count as this process's memory until all are there.
        images = np.empty((len(index), *self.shape), np.uint8)
        for image, record in zip(images, index, strict=True):
            self._pixels.seek(int(record) * image.size)
            self._pixels.readinto(image.data)
        return images, self.labels[index]
