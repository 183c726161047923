"""Take from noisy class means what their known noise explains: empirical Bayes, in bands of axes.

A mean of few records is mostly noise, and noise is the same along all axes, while what images have
lies along a few that public images or frequencies tell. So a band of axes keeps of its length what
is more than noise alone would give (James and Stein; for classes with noise of their own, Efron
and Morris, J. Am. Stat. Assoc. 70, 1975). All of it is post-processing: noisy values, noise levels
and public axes enter, and nothing else. Where records are many, nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values: TypeAlias = NDArray[np.float64]
Group: TypeAlias = "slice | NDArray[np.int64]"

FIRST_BAND = 4
"""Axes of the first band; each one after it has twice as many as the one before."""

TINY = 1e-300


@dataclass(frozen=True)
class Shrunk:
    """``values`` ``[classes, d]``, and the ``variances`` ``[classes]`` of the noise left in them.

    The variances are those of a coordinate, on average over all of them.
    """

    values: Values
    variances: Values


def bands(count: int) -> list[slice]:
    """The coordinates 0 to ``count`` in bands of 4, 8, 16, …, the main axes first."""
    found, start, length = [], 0, FIRST_BAND
    while start < count:
        found.append(slice(start, min(start + length, count)))
        start, length = start + length, 2 * length
    return found


def shrunk(values: Values, variances: Values, groups: Sequence[Group]) -> Shrunk:
    """Noisy rows, one for each class, without what noise explains of them.

    Args:
        values: ``[classes, d]``.
        variances: of the noise on each coordinate of a row, ``[classes]``.
        groups: the coordinates that are shrunk together; each coordinate lies in one of them.
    """
    result, left = np.empty_like(values), np.zeros(len(values))
    for group in groups:
        part = values[:, group]
        found = _factors(part, variances, part.shape[1])
        common = found.shares @ part
        result[:, group] = found.common * common + found.apart[:, None] * (part - common)
        noise = found.common**2 * found.noise_common + found.apart**2 * found.noise_apart
        left += noise * part.shape[1]
    return Shrunk(result, left / values.shape[1])


def shrunk_counts(counts: Values, noise_std: float) -> Values:
    """Noisy class sizes ``[classes]``, nearer to each other by what noise explains of them."""
    mean = counts.mean()
    apart = counts - mean
    noise = noise_std**2 * (1 - 1 / len(counts))
    excess = max(0.0, float((apart**2).mean()) - noise)
    result: Values = mean + apart * (excess / max(excess + noise, TINY))
    return result


class Known:
    """Directions weighed by how much of what a noisy answer says about them is not noise.

    A linear map of rows ``[classes, d]``: applied to the answer itself it is :func:`shrunk`, in
    bands of public axes and one of all that is not along them. Applied to what generated means
    miss, it keeps a generator from following noise, and does not pull it to the public mean.

    Args:
        values, variances: as for :func:`shrunk`.
        axes: orthonormal ``[r, d]``, those along which public images are longest first.
    """

    def __init__(self, values: Values, variances: Values, axes: Values) -> None:
        along, size = values @ axes.T, values.shape[1]
        found = [(along[:, band], band) for band in bands(len(axes))]
        common, apart = np.zeros(len(axes)), np.zeros((len(values), len(axes)))
        for part, band in found:
            factors = _factors(part, variances, part.shape[1])
            common[band], apart[:, band] = factors.common, factors.apart[:, None]
        rest = _factors(values - along @ axes, variances, max(size - len(axes), 1))
        self.axes, self.shares = tensor(axes), tensor(rest.shares)
        self.rest_common, self.rest_apart = rest.common, tensor(rest.apart[:, None])
        self.common = tensor(common - rest.common)
        self.apart = tensor(apart - rest.apart[:, None])

    def to(self, device: torch.device) -> Known:
        """The same on a device, in place."""
        for name in ("axes", "shares", "rest_apart", "common", "apart"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """Float ``[classes, d]`` → the same, weighed; differentiable."""
        common = self.shares @ rows
        apart = rows - common
        of_common, of_apart = common @ self.axes.T * self.common, apart @ self.axes.T * self.apart
        along = (of_common + of_apart) @ self.axes
        return along + self.rest_common * common + self.rest_apart * apart


@dataclass(frozen=True)
class _Factors:
    """Of a band: the part of what classes have in common, and of what tells each apart, that stays.

    ``shares`` are those of the classes in what they have in common; ``noise_common`` and
    ``noise_apart`` the variances of the noise in both.
    """

    shares: Values
    common: float
    apart: Values
    noise_common: float
    noise_apart: Values


def _factors(values: Values, variances: Values, dimensions: int) -> _Factors:
    precisions = 1 / np.maximum(variances, TINY)
    shares = precisions / precisions.sum()
    common = shares @ values
    noise_common = float(1 / precisions.sum())
    length = max(float((common**2).sum()) / dimensions, TINY)
    kept = max(0.0, 1 - noise_common / length)
    noise_apart = variances * (1 - shares)
    excess = ((values - common) ** 2).sum(axis=1) / dimensions - noise_apart
    spread = max(0.0, float(np.average(excess, weights=shares**2)))
    factors = spread / np.maximum(spread + noise_apart, TINY)
    return _Factors(shares, kept, factors, noise_common, noise_apart)


def tensor(values: Values) -> Tensor:
    """As float32."""
    return torch.from_numpy(values).float()
