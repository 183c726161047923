"""What teachers remember between two steps: on disk without a name, and stored now and then."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.privacy import distributed
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed


class TeacherStates:
    """Memories of groups of teachers, float32 ``[groups, at_once, width]``; private.

    They lie in a file in ``folder`` that is unlinked as soon as it is open: what does not fit into
    memory stays on disk, and a killed process leaves nothing behind but what was stored.

    ``step`` counts the steps that the teachers have learned.
    """

    def __init__(self, folder: Path, groups: int, at_once: int, width: int) -> None:
        self._folder, self.step = folder, 0
        shape = (groups, at_once, width)
        self._values = np.zeros(shape, np.float32)
        if self._values.size:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._values = np.memmap(file, np.float32, "w+", shape=shape)

    def read(self, group: int) -> Tensor:
        """A copy of one group's memories, float32 ``[at_once, width]``."""
        return torch.from_numpy(np.array(self._values[group]))

    def write(self, group: int, values: Tensor) -> None:
        """Replace one group's memories."""
        self._values[group] = values.numpy()

    def save(self) -> None:
        """Store the memories durably under the number of steps that were learned.

        Raises:
            LedgerError: the disk refuses.
        """
        store(self._path(self.step), sealed({"memory": torch.from_numpy(self._values)}))

    def restore(self, step: int) -> bool:
        """Take back what was stored after ``step`` steps; False where nothing was.

        Raises:
            LedgerError: the stored memories are damaged.
        """
        path = self._path(step)
        if self._values.size == 0:
            self.step = step
            return True
        if not path.exists():
            return False
        kept = unsealed(path)
        self._values[:] = kept["memory"].numpy()
        self.step = step
        return True

    def forget(self, before: int) -> None:
        """Remove what was stored of earlier steps."""
        for path in self._folder.glob(self._path(0).name.replace("00000000", "*")):
            if int(path.stem.split("-")[1]) < before:
                path.unlink()

    def _path(self, step: int) -> Path:
        # Each rank has memories of its own teachers only.
        return (
            self._folder
            / f"memory-{step:08d}-{distributed.rank()}-{distributed.size()}.safetensors"
        )
