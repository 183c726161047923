"""A public basis of images: the lowest frequencies of the discrete cosine transform."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import idctn

from sfumato.data.spec import PublicSpec

# Orthonormal luma, blue-yellow and red-green axes: natural colours spread mostly along the first.
OPPONENT = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])


def dct_basis(spec: PublicSpec, coefficients: int) -> NDArray[np.float32]:
    """Orthonormal images of the lowest frequencies, luma before chroma.

    Returns:
        float32 ``[coefficients, channels * height * width]`` with orthonormal rows. A chroma
        frequency counts as twice as high as the same luma frequency.
    """
    height, width, channels = spec.height, spec.width, spec.channels
    down, across = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    rank = (down / height) ** 2 + (across / width) ** 2
    ranks = np.stack([rank * (1 if channel == 0 else 4) for channel in range(channels)])
    lowest = np.argsort(ranks, axis=None, kind="stable")[:coefficients]
    colours = OPPONENT if channels == 3 else np.ones((1, 1))
    basis = np.zeros((len(lowest), channels, height, width), np.float32)
    for row, (channel, i, j) in enumerate(zip(*np.unravel_index(lowest, ranks.shape), strict=True)):
        wave = np.zeros((height, width))
        wave[i, j] = 1
        basis[row] = colours[channel][:, None, None] * idctn(wave, norm="ortho")
    return basis.reshape(len(lowest), channels * height * width)
