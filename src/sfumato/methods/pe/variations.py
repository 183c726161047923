"""What a public source of images must do for Private Evolution: make some, and vary them.

These are RANDOM_API and VARIATION_API of arXiv 2305.15560, section 4; one file a source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """Public images and how they were made.

    ``images`` uint8 ``[n, c, h, w]``; ``traits`` float64 ``[n, k]``, what their source varies.
    """

    images: NDArray[np.uint8]
    traits: NDArray[np.float64]

    def take(self, index: NDArray[np.int64]) -> Candidates:
        """The candidates of these numbers."""
        return Candidates(self.images[index], self.traits[index])


@runtime_checkable
class Variations(Protocol):
    """A public source of images; it never sees a private one."""

    def first(self, labels: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """One image for each label, as different as the source has them."""

    def vary(self, candidates: Candidates, degree: float, rng: np.random.Generator) -> Candidates:
        """An image like each candidate; ``degree`` in [0, 1] says how far from it."""
