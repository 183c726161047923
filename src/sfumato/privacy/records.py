"""Private records that can be read in any order: decoded once, into a file without a name."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.data.source import ImageSource

READ_BATCH = 256


class Records:
    """A data set's images and labels, in its fixed order.

    The pixels lie in a file in ``folder`` that is unlinked as soon as it is open: memory stays
    flat, and not even a killed process leaves private pixels behind.
    """

    def __init__(self, source: ImageSource, folder: Path) -> None:
        spec = source.spec
        labels: list[NDArray[np.int64]] = []
        self._file = tempfile.TemporaryFile(dir=folder)
        for images, batch_labels in source.batches(READ_BATCH):
            self._file.write(np.ascontiguousarray(images).data)
            labels.append(batch_labels)
        self._file.flush()
        self._labels = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        shape = (len(self._labels), spec.channels, spec.height, spec.width)
        self._images = (
            np.memmap(self._file, np.uint8, "r", shape=shape)
            if len(self._labels)
            else np.zeros(shape, np.uint8)
        )

    def __len__(self) -> int:
        return len(self._labels)

    def take(self, index: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images uint8 ``[b, c, h, w]`` and labels int64 ``[b]``; -1 where a record is unusable."""
        return np.array(self._images[index]), self._labels[index]
