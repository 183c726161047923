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
from sfumato.privacy.clipping import EXACT_ROWS
from sfumato.privacy.queries.kinds import ExactQuery
from sfumato.privacy.records.units import units_of
from sfumato.progress import Report

BATCH = 128
VALUES_IN_MEMORY = 2**26
PROGRESS_STEPS = 100


def contributions(query: ExactQuery, images: Tensor, labels: Tensor) -> Tensor:
    """What each image would contribute, float32 ``[b, d]``, not yet bounded.

    Raises:
        SfumatoError: the query's function returned another shape.
    """
    with torch.inference_mode():
        values = query.values(images, labels).to(torch.float32)
    if values.shape != (len(images), query.dimension):
        raise SfumatoError(
            f"query {query.name!r} returned shape {tuple(values.shape)} for a batch of "
            f"{len(images)}; it must be ({len(images)}, {query.dimension})."
        )
    return values


def independent_batch_size(query: ExactQuery, spec: PublicSpec) -> int:
    """The largest batch in which a row's bits do not depend on its mates or its position.

    Raises:
        SfumatoError: even a batch of one gives different bits for the same image.
    """
    size = max(1, min(BATCH, VALUES_IN_MEMORY // query.dimension))
    while not _rows_independent(query, spec, size):
        if size == 1:
            raise SfumatoError(
                f"query {query.name!r}: its function gives different bits for the same image, so "
                "its sum has no exact sensitivity. Use deterministic operations."
            )
        size = max(size // 8, 1)
    return size


def _rows_independent(query: ExactQuery, spec: PublicSpec, size: int) -> bool:
    rng = np.random.default_rng(0)  # public random images; nothing private depends on this seed
    shape = (2 * size, spec.channels, spec.height, spec.width)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, max(len(spec.classes), 1), 2 * size))

    # The bits before clipping: the grid would hide most of a difference that one image in
    # thousands then shows.
    def bits(part: Tensor) -> Tensor:
        return contributions(query, images[part], labels[part]).contiguous().view(torch.uint8)

    start = torch.arange(size)
    first = bits(start)
    order = torch.from_numpy(rng.permutation(2 * size))
    # One record removed moves all later ones by one place; full shuffles.
    for part in (start + 1, order[:size], order[size:]):
        known = part < size
        if not torch.equal(bits(part)[known], first[part[known]]):
            return False
    # The last batch is padded with black; white mates are the other extreme.
    kept = size - size // 2
    beside = torch.cat([start[-kept:], start[: size // 2] + size])
    for colour in (0, 255):
        images[size:], labels[size:] = colour, 0
        if not torch.equal(bits(beside)[:kept], first[-kept:]):
            return False
    return True


def total(query: ExactQuery, source: ImageSource, size: int, report: Report) -> Tensor:
    """Σ of all contributions in grid steps; independent of record order.

    Returns:
        int64 vector: the rows of the answer one after the other, then the shared coordinates.

    Raises:
        SfumatoError: the query's function fails; the text is withheld, as it may quote records.
    """
    spec = source.spec
    rows, columns = query.shape(len(spec.classes))
    result = torch.zeros(rows * columns + query.shared, dtype=torch.int64)
    blocks, shared = result[: rows * columns].view(rows, columns), result[rows * columns :]
    progress = _Progress(source._private_length(), report)
    images = torch.zeros((size, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    labels = torch.zeros(size, dtype=torch.int64)
    units, done, bounds = units_of(source), 0, None
    of_record = None if units is None else units.bounds()
    for pixels, classes in source.batches(size):
        count = len(pixels)
        images[:count], images[count:] = torch.from_numpy(pixels), 0
        labels[:count], labels[count:] = torch.from_numpy(classes).clamp(min=0), 0
        values = _withholding_errors(query, images, labels)
        used = classes >= 0
        if of_record is not None:
            here = of_record[done : done + count]
            used, bounds = used & (here > 0), torch.from_numpy(here)
        block = np.where(used, classes if query.by_class else 0, -1)
        for row in range(rows):
            for part in torch.from_numpy(np.flatnonzero(block == row)).split(EXACT_ROWS):
                steps = query.clipped_sum(values, part, bounds)
                blocks[row] += steps[:columns].to(torch.int64)
                shared += steps[columns:].to(torch.int64)
        progress.advance(count)
        done += count
    if units is not None:
        units.check(done)
    progress.finish()
    return result


def _withholding_errors(query: ExactQuery, images: Tensor, labels: Tensor) -> Tensor:
    try:
        return contributions(query, images, labels)
    except Exception as error:
        failure = type(error).__name__
    # Raised outside the handler: chained errors would carry the text along.
    raise SfumatoError(
        f"query {query.name!r}: its function failed with {failure} on the private data (the "
        "message is withheld). The budget stays charged; the run can go on once it is mended."
    )


class _Progress:
    """Reports 0.01, 0.02, … 1.00, whatever the number of records: a share would betray it."""

    def __init__(self, length: int, report: Report) -> None:
        self._length, self._report = max(length, 1), report
        self._done = self._shown = 0

    def advance(self, records: int) -> None:
        self._done += records
        while self._shown < min(self._done * PROGRESS_STEPS // self._length, PROGRESS_STEPS):
            self._shown += 1
            self._report(self._shown / PROGRESS_STEPS)

    def finish(self) -> None:
        self.advance(self._length)
