"""Exactly Poisson samples: each unit with one probability, independently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson_sample(size: int, rate: float, stream: np.random.Generator) -> NDArray[np.int64]:
    """Each of ``size`` units with probability ``rate``, independently; sorted int64 indices.

    A binomial number of units, then a uniform subset of that size: exactly Poisson sampling, at a
    cost that grows with the sample and not with the data.
    """
    count = int(stream.binomial(size, rate))
    return np.sort(stream.choice(size, count, replace=False, shuffle=False)).astype(np.int64)
