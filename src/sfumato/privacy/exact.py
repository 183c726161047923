"""Exact sums over private images: integers in, integers out, each unit on its own.

A kernel may choose its order of additions by the shape of the batch, so the same image could give
other last bits in another batch, and removing one record would move all later ones. Batches
therefore have one fixed shape, padded with zeros, and before a sum starts the query's function is
probed with public random images: rows that change with their mates or position make the batch
smaller, down to one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import SfumatoError
from sfumato.privacy.clipping import to_grid
from sfumato.privacy.queries import SumQuery
from sfumato.progress import Report

BATCH = 128
EXACT_ROWS = 16
"""Sixteen rows of at most 2²⁰ steps add up to at most 2²⁴, exact in float32 in any order."""

VALUES_IN_MEMORY = 2**26


def contributions(query: SumQuery, images: Tensor, labels: Tensor) -> Tensor:
    """Each row's clipped contribution in grid steps, float32 integers ``[b, d]``.

    Raises:
        SfumatoError: the function's answer has the wrong shape (public: it does not depend on
            what the images hold).
    """
    with torch.inference_mode():
        values = query.contribution(images, labels)
        if values.shape != (len(images), query.dimension):
            raise SfumatoError(
                f"query {query.name!r} returned shape {tuple(values.shape)} for a batch of "
                f"{len(images)}; it must be ({len(images)}, {query.dimension})."
            )
        return to_grid(values, query.clip_norm, query.nonnegative)


def independent_batch_size(query: SumQuery, spec: PublicSpec) -> int:
    """The largest batch in which a row's bits do not depend on its mates or its position.

    Raises:
        SfumatoError: even a batch of one gives different bits for the same image.
    """
    size = max(1, min(BATCH, VALUES_IN_MEMORY // query.dimension))
    while True:
        if _rows_independent(query, spec, size):
            return size
        if size == 1:
            raise SfumatoError(
                f"query {query.name!r}: its function gives different bits for the same image, so "
                "its sum has no exact sensitivity. Use deterministic operations."
            )
        size //= 8
        size = max(size, 1)


def _rows_independent(query: SumQuery, spec: PublicSpec, size: int) -> bool:
    rng = np.random.default_rng(0)  # public random images; nothing private depends on this seed
    shape = (2 * size, spec.channels, spec.height, spec.width)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, max(len(spec.classes), 1), 2 * size))
    first = contributions(query, images[:size], labels[:size])
    order = torch.from_numpy(rng.permutation(2 * size))
    for part in (order[:size], order[size:]):
        known = part < size
        again = contributions(query, images[part], labels[part])
        if not torch.equal(again[known], first[part[known]]):
            return False
    alone = torch.zeros_like(images[:size])
    alone[-1], place = images[0], torch.zeros_like(labels[:size])
    place[-1] = labels[0]
    return torch.equal(contributions(query, alone, place)[-1], first[0])


def total(query: SumQuery, source: ImageSource, size: int, report: Report) -> Tensor:
    """Σ of all contributions in grid steps; independent of record order.

    Returns:
        int64 vector: the rows of the answer one after the other, then the shared coordinates.
    """
    spec = source.spec
    rows, columns = query.shape(len(spec.classes))
    result = torch.zeros(rows * columns + query.shared, dtype=torch.int64)
    blocks, shared = result[: rows * columns].view(rows, columns), result[rows * columns :]
    length, done = source._private_length(), 0
    images = torch.zeros((size, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    labels = torch.zeros(size, dtype=torch.int64)
    for pixels, classes in source.batches(size):
        count = len(pixels)
        images.zero_()
        labels.zero_()
        images[:count] = torch.from_numpy(pixels)
        usable = torch.from_numpy(classes >= 0)
        labels[:count] = torch.from_numpy(classes).clamp(min=0)
        grid = contributions(query, images, labels)[:count]
        block = labels[:count] if query.by_class else torch.zeros(count, dtype=torch.int64)
        for row in range(rows):
            _add_exactly(blocks[row], grid[usable & (block == row), :columns])
        if query.shared:
            _add_exactly(shared, grid[usable, columns:])
        done += count
        # A percentage in whole steps: the number of records is private.
        report(round(min(done / max(length, 1), 1.0), 2))
    return result


def _add_exactly(total_row: Tensor, grid: Tensor) -> None:
    for start in range(0, len(grid), EXACT_ROWS):
        total_row += grid[start : start + EXACT_ROWS].sum(dim=0).to(torch.int64)
