"""Scores made of nearest neighbours: precision, recall, density, coverage and memorisation.

Distances are Euclidean between feature vectors, computed in float32 a block of rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from scipy.stats import mannwhitneyu
from torch import Tensor

from sfumato.errors import DataError

Features = Float[np.ndarray, "n d"]
Others = Float[np.ndarray, "m d"]

BLOCK_ENTRIES = 2**25
"""Distances held at once: 128 MiB of float32."""
MANIFOLD_K = 3
"""Neighbours that span the manifold of precision and recall (arXiv 1904.06991, §5)."""
DENSITY_K = 5
"""Neighbours for density and coverage (arXiv 2002.09797, §4)."""


def _centred(*sets: np.ndarray) -> list[Tensor]:
    """The sets in float32 around the first one's mean, where ‖a‖² + ‖b‖² − 2ab cancels least."""
    centre = sets[0].mean(axis=0, dtype=np.float64).astype(np.float32)
    return [torch.from_numpy(features.astype(np.float32) - centre) for features in sets]


def _blocks(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of consecutive ``rows`` to all ``columns``, with those rows' positions."""
    norms = columns.square().sum(1)
    size = max(1, BLOCK_ENTRIES // len(columns))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        squared = torch.addmm(norms, block, columns.T, alpha=-2)
        squared += block.square().sum(1, keepdim=True)
        yield slice(start, start + len(block)), squared.clamp_(min=0)


def _squared_radii(features: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """Squared distance of each vector to its k-th nearest other one, for every k of ``ks``."""
    radii = torch.empty(len(features), max(ks))
    for rows, squared in _blocks(features, features):
        squared[torch.arange(len(squared)), torch.arange(len(features))[rows]] = torch.inf
        radii[rows] = squared.topk(max(ks), largest=False).values
    return [radii[:, k - 1] for k in ks]


@dataclass(frozen=True)
class ManifoldScores:
    """Shares in [0, 1], except ``density``, which may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Features, synthetic: Others) -> ManifoldScores:
    """How far two sets of features cover each other.

    Precision is the share of synthetic vectors within the distance of some real vector to its
    ``MANIFOLD_K``-th neighbour; recall exchanges the two (arXiv 1904.06991, eq. 2). Density counts
    the real balls of radius ``DENSITY_K`` around each synthetic vector, over ``DENSITY_K``;
    coverage is the share of those balls that hold one (arXiv 2002.09797, eq. 3 and 4).

    Raises:
        DataError: a set has too few vectors to have that many neighbours.
    """
    if min(len(real), len(synthetic)) <= DENSITY_K:
        raise DataError(f"Precision and density need more than {DENSITY_K} images on each side.")
    points, samples = _centred(real, synthetic)
    manifold, ball = _squared_radii(points, (MANIFOLD_K, DENSITY_K))
    (others,) = _squared_radii(samples, (MANIFOLD_K,))
    precise, dense = 0, 0
    recalled, covered = torch.zeros(2, len(points), dtype=torch.bool)
    for rows, squared in _blocks(samples, points):
        precise += int((squared <= manifold).any(1).sum())
        recalled |= (squared <= others[rows, None]).any(0)
        inside = squared < ball
        dense += int(inside.sum())
        covered |= inside.any(0)
    return ManifoldScores(
        precision=precise / len(samples),
        recall=recalled.float().mean().item(),
        density=dense / (DENSITY_K * len(samples)),
        coverage=covered.float().mean().item(),
    )


def nearest_distances(features: Features, others: Others) -> Float32[np.ndarray, " n"]:
    """Distance of each vector to the nearest of ``others``; 0 for an exact copy."""
    columns, rows = _centred(others, features)
    nearest = torch.cat([squared.argmin(1) for _, squared in _blocks(rows, columns)])
    # Subtracting afresh: the block's distances are too rough near 0, where copies are found.
    result: np.ndarray = (rows - columns[nearest]).norm(dim=1).numpy()
    return result


@dataclass(frozen=True)
class Memorisation:
    """Whether synthetic images lie closer to training images than unseen real ones do.

    ``share_closer`` is the share of synthetic images nearer to a training image than all but the
    nearest 1 % of held-out images (``threshold``): about 0.01 where nothing is memorised.
    ``probability_closer`` is the chance that a random synthetic image lies closer than a random
    held-out one, and ``p_value`` that of the one-sided Mann-Whitney test. Blurred images are close
    to everything, so a small p-value alone shows no copying; neither does a large one prove
    privacy.
    """

    share_closer: float
    threshold: float
    probability_closer: float
    p_value: float


def memorisation(
    train: Features, held_out: Others, synthetic: Float[np.ndarray, "k d"]
) -> Memorisation:
    """Compare the distances of synthetic and held-out real features to the training features.

    Raises:
        DataError: a set is empty.
    """
    if min(len(train), len(held_out), len(synthetic)) == 0:
        raise DataError("A memorisation check needs training, held-out and synthetic images.")
    ours, theirs = nearest_distances(synthetic, train), nearest_distances(held_out, train)
    threshold = float(np.percentile(theirs, 1))
    test = mannwhitneyu(ours, theirs, alternative="less")
    return Memorisation(
        share_closer=float((ours < threshold).mean()),
        threshold=threshold,
        probability_closer=1 - float(test.statistic) / (len(ours) * len(theirs)),
        p_value=float(test.pvalue),
    )


def exact_copies(
    train: UInt8[np.ndarray, "n c h w"], synthetic: UInt8[np.ndarray, "m c h w"]
) -> int:
    """How many synthetic images equal a training image in every pixel."""
    known = {sha256(image.tobytes()).digest() for image in train}
    return sum(sha256(image.tobytes()).digest() in known for image in synthetic)
