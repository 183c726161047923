"""Membership attacks on a run over DATA: on its noisy answers, its model and its images.

Each gives every canary a score that is positive where the canary seems present. The attacker knows
the whole of DATA but the coins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.audit.canaries import CanaryImages, records_of
from sfumato.data import ImageSource, LabelledImages
from sfumato.methods.base import Fitted
from sfumato.privacy import Answer, Relation, SumQuery, TotalQuery
from sfumato.privacy.answering import integer_sums
from sfumato.privacy.grid import UNIT

BATCH = 128


def answer_scores(
    answers: Sequence[tuple[TotalQuery, Answer]],
    source: ImageSource,
    canaries: CanaryImages,
    relation: Relation,
) -> NDArray[np.float64]:
    """Log likelihood ratios from noisy sums, the other canaries' coins being noise too.

    The best linear attack: with V the canaries' contributions, r the answer less its mean and σ²
    the noise, x = ¼(σ²I + ¼VᵀV)⁻¹Vᵀr estimates the coins, each to its own precision.
    """
    m, (_, used) = len(canaries), records_of(source.spec)
    gram, along = np.zeros((m, m)), np.zeros(m)
    for query, answer in answers:
        images, labels = canaries.images, canaries.labels
        present = _contributions(query, images, labels, used)
        absent = np.zeros_like(present)
        if relation == "replace-one":
            absent = _contributions(query, canaries.others, labels, used)
        rows = labels if query.by_class else np.zeros_like(labels)
        cut = [query.width - query.shared]
        rest, rest_shared = _without(query, answer, source)
        middle, middle_shared = np.split((present + absent) / 2, cut, axis=1)
        np.subtract.at(rest, rows, middle)
        rest_shared -= middle_shared.sum(axis=0)
        own, shared = np.split(present - absent, cut, axis=1)
        together = (own @ own.T) * (rows[:, None] == rows) + shared @ shared.T
        gram += together / answer.noise_std**2
        found = np.einsum("md,md->m", own, rest[rows]) + shared @ rest_shared
        along += found / answer.noise_std**2
    inverse = np.linalg.inv(np.eye(m) + gram / 4)
    scores: NDArray[np.float64] = inverse @ along / np.diag(inverse)
    return scores


def _without(
    query: TotalQuery, answer: Answer, source: ImageSource
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An answer less what DATA add to it: ``total`` and ``shared``. PRIVATE."""
    batch = integer_sums.independent_batch_size(query, source.spec)
    known = integer_sums.total(query, source, batch, lambda share: None).numpy()
    step = query.event("add-or-remove-one").clip_norm / UNIT
    own, shared = np.split(known * step, [answer.total.size])
    return answer.total - own.reshape(answer.total.shape), answer.shared - shared


@torch.no_grad()
def _contributions(
    query: TotalQuery, images: NDArray[np.uint8], labels: NDArray[np.int64], records: int
) -> NDArray[np.float32]:
    """What each image, held by so many records of a unit, adds to the answer, ``[b, d]``."""
    parts = [np.zeros((0, query.width), np.float32)]
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        rows = query.values(torch.from_numpy(images[part]), torch.from_numpy(labels[part])).float()
        if isinstance(query, SumQuery):
            rows = rows.clamp(min=0) if query.nonnegative else rows
            norms = rows.norm(dim=1, keepdim=True).clamp(min=query.clip_norm / records)
            rows = rows * (query.clip_norm / norms)
        parts.append(rows.numpy())
    return np.concatenate(parts)


def image_scores(
    released: LabelledImages, canaries: CanaryImages, relation: Relation
) -> NDArray[np.float64]:
    """How much nearer a canary's nearest released image lies than images usually do.

    Distances in pixels to the images of its class, the nearest in standard deviations below the
    mean; under replace-one against that of the canary's other image. Centred.
    """
    scores = _nearness(released, canaries.images, canaries.labels)
    if relation == "replace-one":
        scores = scores - _nearness(released, canaries.others, canaries.labels)
    return scores - np.median(scores)


def _nearness(
    released: LabelledImages, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    scores = np.zeros(len(images))
    for label in np.unique(labels):
        mine = labels == label
        others = released.images[released.labels == label]
        if not len(others):
            continue
        distances = torch.cdist(_flat(images[mine]), _flat(others))
        spread, mean = torch.std_mean(distances, dim=1, correction=0)
        scores[mine] = ((mean - distances.min(dim=1).values) / (spread + 1e-6)).double().numpy()
    return scores


def _flat(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).flatten(1).float() / 255


def model_scores(
    model: Fitted, canaries: CanaryImages, relation: Relation
) -> NDArray[np.float64] | None:
    """How small a model's own loss on each canary is, centred; None for models without losses.

    Those are computed from answers that :func:`answer_scores` attacks, with nothing added.
    """
    losses = model.losses(canaries.images, canaries.labels)
    if losses is None:
        return None
    scores = -losses
    if relation == "replace-one":
        others = model.losses(canaries.others, canaries.labels)
        scores += 0 if others is None else others
    return scores - np.median(scores)
