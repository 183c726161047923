"""A stream that answers given words, for the tests of what is made of uniform bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato.privacy.noise.entropy import Stream


class Scripted(Stream):
    """A stream that answers given words and no others."""

    def __init__(self, words: list[int]) -> None:
        super().__init__(bytes(32), True)
        self.script = words

    def words(self, n: int) -> NDArray[np.uint64]:
        answer, self.script = self.script[:n], self.script[n:]
        assert len(answer) == n
        return np.array(answer, dtype=np.uint64)


@pytest.fixture(scope="session")
def scripted() -> type[Stream]:
    return Scripted
