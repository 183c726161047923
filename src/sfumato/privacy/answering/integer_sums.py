"""Integer sums over private images, each unit on its own: what sum and histogram answer.

A kernel may choose its order of additions by the shape of the batch or a row's place in it, so the
same image could give other last bits in another batch, and removing one record would move all later
ones. Batches therefore have one fixed shape, padded with zeros, and before a sum starts the query's
function is probed with thousands of public random images: rows that change with their mates or
their place make the batch smaller, down to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, exact_device
from sfumato.errors import SfumatoError
from sfumato.privacy import distributed
from sfumato.privacy.answering.base import DeviceFullError, foreign
from sfumato.privacy.clipping import EXACT_ROWS, some_rows
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.base import TotalQuery
from sfumato.privacy.records.units import units_of
from sfumato.progress import Report

BATCH = 128
VALUES_IN_MEMORY = 2**26
PROGRESS_STEPS = 100

ROUNDS, PROBED = 4, 1024
"""Each batch size is probed with at least so many rows, in so many orders: a kernel that treats one
image in a hundred otherwise at another place is found but for one time in 20,000."""


@runtime_checkable
class PerRecord(Protocol):
    """A query that takes ``width`` values from each record alone."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def width(self) -> int:
        """Number of values."""

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """Float ``[b, width]``."""


def independent_work(
    query: PerRecord, spec: PublicSpec, device: torch.device = CPU, most: int = BATCH
) -> tuple[int, int]:
    """The size of batches, and how many ranks share them, for a record to give the same bits.

    It must wherever it is taken: else the first rank alone takes all records, because one record
    less would move others to another machine.

    Raises:
        DeviceFullError: batches of ``most`` images do not fit into a rank's device.
    """
    batch, found = 0, "full"
    try:
        batch = independent_batch_size(query, spec, device, most)
        if distributed.size() == 1:
            return batch, 1
        found = f"{batch} {probe_digest(query, spec, batch, device)}"
    except torch.OutOfMemoryError:
        pass
    alike = distributed.everyones(found)
    if "full" in alike:
        raise DeviceFullError
    return batch, distributed.size() if len(set(alike)) == 1 else 1


def contributions(
    query: PerRecord, images: Tensor, labels: Tensor, device: torch.device = CPU
) -> Tensor:
    """What each image would contribute, float32 ``[b, d]`` on ``device``, not yet bounded.

    Raises:
        SfumatoError: the query's function returned another shape.
    """
    with torch.inference_mode():
        values = query.values(images.to(device), labels.to(device)).to(device, torch.float32)
    if values.shape != (len(images), query.width):
        raise SfumatoError(
            f"query {query.name!r} returned shape {tuple(values.shape)} for a batch of "
            f"{len(images)}; it must be ({len(images)}, {query.width})."
        )
    return values


def independent_batch_size(
    query: PerRecord, spec: PublicSpec, device: torch.device = CPU, most: int = BATCH
) -> int:
    """The largest batch up to ``most`` in which a row depends on no mate and no position.

    Raises:
        SfumatoError: even a batch of one gives different bits for the same image.
    """
    size = max(1, min(most, VALUES_IN_MEMORY // query.width))
    while not _rows_independent(query, spec, size, device):
        if size == 1:
            raise SfumatoError(
                f"query {query.name!r}: its function gives different bits for the same image, so "
                "its sum has no exact sensitivity. Use deterministic operations."
            )
        size = max(size // 8, 1)
    return size


def _rows_independent(query: PerRecord, spec: PublicSpec, size: int, device: torch.device) -> bool:
    rng = np.random.default_rng(0)  # public random images; nothing private depends on this seed
    pool = max(2 * size, PROBED // ROUNDS)
    shape = (pool, spec.channels, spec.height, spec.width)
    images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, max(len(spec.classes), 1), pool))

    # The bits before clipping: the grid would hide most of a difference that one image in
    # thousands then shows.
    def bits(order: Tensor) -> Tensor:
        found = []
        for part in order.split(size):
            padded = torch.cat([part, part[:1].expand(size - len(part))])
            rows = contributions(query, images[padded], labels[padded], device)
            found.append(rows[: len(part)].cpu())
        return torch.cat(found).contiguous().view(torch.uint8)

    expected = bits(torch.arange(pool))
    # One record removed moves all later ones by one place; the rest are full shuffles.
    orders = [torch.arange(1, pool)]
    orders += [torch.from_numpy(rng.permutation(pool)) for _ in range(ROUNDS - 1)]
    if any(not torch.equal(bits(order), expected[order]) for order in orders):
        return False
    # The last batch is padded with black; white mates are the other extreme.
    kept = size - size // 2
    start = torch.arange(size)
    beside = torch.cat([start[-kept:], start[: size // 2] + size])
    for colour in (0, 255):
        images[size : 2 * size], labels[size : 2 * size] = colour, 0
        if not torch.equal(bits(beside)[:kept], expected[start[-kept:]]):
            return False
    return True


def probe_digest(query: PerRecord, spec: PublicSpec, size: int, device: torch.device = CPU) -> str:
    """SHA-256 of what a batch of public random images contributes on this machine."""
    rng = np.random.default_rng(1)
    digest = sha256()
    for _ in range(-(-PROBED // size)):
        shape = (size, spec.channels, spec.height, spec.width)
        images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(0, max(len(spec.classes), 1), size))
        digest.update(contributions(query, images, labels, device).cpu().numpy().tobytes())
    return digest.hexdigest()


def total(
    query: TotalQuery,
    source: ImageSource,
    size: int,
    report: Report,
    ranks: int = 1,
    device: torch.device = CPU,
) -> Tensor:
    """Σ of this rank's contributions (see :func:`contributed`) in grid steps, in any order.

    Returns:
        int64 vector: the rows of the answer one after the other, then the shared coordinates.
    """
    spec = source.spec
    rows, columns = query.shape(len(spec.classes))
    place = exact_device(device)
    result = torch.zeros(rows * columns + query.shared, dtype=torch.int64, device=place)
    blocks, shared = result[: rows * columns].view(rows, columns), result[rows * columns :]

    # In calls of their own, so that no batch and no few rows need more memory than the first.
    def add_few(block: NDArray[np.int64], rows: Tensor, most: Tensor | None) -> None:
        first = np.flatnonzero(np.diff(block, prepend=-1)).tolist()
        for start, steps in zip(first, query.bounded_sums(rows, most, first), strict=True):
            blocks[block[start]] += steps[:columns]
            shared.add_(steps[columns:])

    def add(part: Contributed) -> None:
        values = part.values.to(place)
        bounds = None if spec.unit is None else torch.from_numpy(part.bounds)
        block = np.where(part.labels < 0, -1, part.labels if query.by_class else 0)
        for chosen in _sixteens(block, apart=place.type != "cpu"):
            add_few(block[chosen], *some_rows(values, torch.from_numpy(chosen), bounds))

    for part in contributed(query, source, size, report, ranks, device):
        add(part)
        del part  # before the next one comes
    return result.cpu()


def _sixteens(block: NDArray[np.int64], apart: bool) -> Iterator[NDArray[np.int64]]:
    """The places of the rows that count, sixteen at most at once, by block; or each block apart."""
    order = np.argsort(block, kind="stable")
    order = order[block[order] >= 0]
    parts = np.split(order, np.flatnonzero(np.diff(block[order])) + 1) if apart else [order]
    for part in parts:
        yield from (part[at : at + EXACT_ROWS] for at in range(0, len(part), EXACT_ROWS))


@dataclass(frozen=True, repr=False)
class Contributed:
    """What a batch of records contributes. PRIVATE.

    ``values`` float32 ``[b, d]``, not yet bounded; ``labels`` int64 ``[b]``, -1 where a record is
    unusable or surplus; ``bounds`` int64 ``[b]``, the most steps of each.
    """

    values: Tensor
    labels: NDArray[np.int64]
    bounds: NDArray[np.int64]


def contributed(
    query: PerRecord,
    source: ImageSource,
    size: int,
    report: Report,
    ranks: int = 1,
    device: torch.device = CPU,
) -> Iterator[Contributed]:
    """What this rank's records contribute, in batches of one fixed shape.

    Batches go to the first ``ranks`` ranks in turn: each reads all records as they are stored, and
    decodes its own.
    """
    spec, units, done = source.spec, units_of(source), 0
    progress = _Progress(source._private_length(), report)
    images = torch.zeros((size, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    labels = torch.zeros(size, dtype=torch.int64)
    of_record = None if units is None else units.bounds()

    def mine(number: int) -> bool:
        return number % ranks == distributed.rank()

    for number, (pixels, classes) in enumerate(source.batches(size, mine)):
        count = len(pixels)
        if not mine(number):
            done += count
            continue
        images[:count], images[count:] = torch.from_numpy(pixels), 0
        labels[:count], labels[count:] = torch.from_numpy(classes).clamp(min=0), 0
        whole = np.full(count, UNIT)
        bounds = whole if of_record is None else of_record[done : done + count]
        counted = np.where(bounds > 0, classes, -1)
        values = partial(contributions, query, images, labels, device)
        yield Contributed(foreign(values)[:count], counted, bounds)
        done += count
        progress.advance(done)
    if units is not None:
        units.check(done)
    progress.finish()


class _Progress:
    """Reports 0.01, 0.02, … 1.00, whatever the number of records: a share would betray it."""

    def __init__(self, length: int, report: Report) -> None:
        self._length, self._report = max(length, 1), report
        self._done = self._shown = 0

    def advance(self, done: int) -> None:
        """Take the number of records that have been read so far."""
        self._done = done
        while self._shown < min(self._done * PROGRESS_STEPS // self._length, PROGRESS_STEPS):
            self._shown += 1
            self._report(self._shown / PROGRESS_STEPS)

    def finish(self) -> None:
        self.advance(self._length)
