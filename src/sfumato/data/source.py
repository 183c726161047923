"""Private records behind a public specification: the one shape that every reader has."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from sfumato.data.decoding.decode import quiet
from sfumato.data.decoding.workers import Decoded, Stored, decoded
from sfumato.data.options import DataOptions
from sfumato.data.spec import PublicSpec
from sfumato.data.storage import Location, state_of
from sfumato.data.units import Key, Part
from sfumato.errors import UsageError

Record = tuple[Stored, int | None]
"""Encoded bytes, or uint8 [channels, height, width], or None if unusable; the label or None."""


@dataclass(frozen=True, order=True)
class Place:
    """Where records lie: a file or folder (``place_of``) with all below it, or one ``part``."""

    path: str
    part: str = ""

    def overlaps(self, other: Place) -> bool:
        """Whether a record may lie in both."""
        if self.path == other.path:
            return "" in (self.part, other.part) or self.part == other.part
        one, two = PurePath(self.path), PurePath(other.path)
        return one.is_relative_to(two) or two.is_relative_to(one)


class Cluster(Protocol):
    """What maps work over shards on other processes or machines."""

    def each(
        self, work: Callable[[ImageSource], Any], shards: Sequence[ImageSource]
    ) -> Iterator[tuple[int, Any]]:
        """Each shard's number and what ``work`` makes of it, as they come."""


class ImageSource(ABC):
    """A data set that streams: private content behind the public ``spec`` and ``name``.

    ``location_key`` names the data set's ledger: the resolved path or ``named:...``, with the split
    where there are several. ``places`` say where its records lie, so that data sets that overlap
    are found; ``aliases`` are location keys that the same records have under other names.
    ``knows_splits`` tells whether the container itself says which splits it has. ``options`` are
    what was stated when it was opened, and ``notes`` public sentences on how
    the data set is read. ``cluster`` computes one-pass sums over the shards, None being this
    process. ``part`` is set where whole units lie in one shard. Only public things are printed.
    """

    def __init__(
        self, name: str, spec: PublicSpec, location_key: str, places: Iterable[Place] = ()
    ) -> None:
        self.name = name
        self.spec = spec
        self.location_key = location_key
        self.places = tuple(places) or (Place(location_key),)
        self.aliases: tuple[str, ...] = ()
        self.options = DataOptions()
        self.knows_splits = True
        self.notes: tuple[str, ...] = ()
        self.cluster: Cluster | None = None
        self.part: Part | None = None

    def by_shard(self) -> list[ImageSource]:
        """The same records as sources of one file each; [] where these are no shards."""
        return []

    @abstractmethod
    def _records(self) -> Iterator[Record]:
        """Yield every record in its fixed order; a broken record is yielded, never skipped."""

    def _decoded(self, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Decoded]:
        """Yield every record's pixels, None if it is unusable or not ``wanted``, and its label.

        Iterate inside ``quiet``. Raises DataError where the file format is broken.
        """
        records = enumerate(self._records())
        chosen = ((stored if wanted(i) else None, label) for i, (stored, label) in records)
        return decoded(chosen, self.spec, self.options)

    def _unit_keys(self) -> Iterator[Key]:
        """Yield each record's key, in the records' order. PRIVATE, and only with ``spec.unit``."""
        raise UsageError(f"{self.name}: these images have neither columns nor names of records.")

    @abstractmethod
    def _private_length(self) -> int:
        """Return the number of records. PRIVATE: only ``sfumato.privacy`` may ask, for progress."""

    def _private_name(self, index: int) -> str:
        """Return what the custodian knows a record by. PRIVATE: only ``sfumato check`` may ask."""
        return f"record {index}"

    def reading(self) -> str:
        """What was stated that changes pixels, labels or units; part of every fingerprint."""
        table = self.options.labels
        stated = "" if table is None else digest_of_files([Path(table)])
        return self.options.reading + stated

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a cheap digest that changes when the data set does. PRIVATE: never released."""

    def batches(
        self, size: int, wanted: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield images uint8 [b, channels, height, width] and labels int64 [b] in a fixed order.

        All but the last batch have b == size. Label -1 marks a record whose content could not be
        used (undecodable, a label outside the classes, non-finite): its image is all zeros.
        Unlabelled data has label 0. Batches whose number, from 0, is not ``wanted`` are not
        decoded: all their records look unusable. Raises DataError only where the file format is
        broken, or a process that decodes was ended.
        """
        if size < 1:
            raise UsageError(f"batch size {size} must be >= 1.")
        shape = (size, self.spec.channels, self.spec.height, self.spec.width)
        labelled, top = bool(self.spec.classes), len(self.spec.classes)
        records = self._decoded(lambda index: wanted(index // size))
        filled = size
        while filled == size:
            images, labels = np.zeros(shape, np.uint8), np.full(size, -1, np.int64)
            filled = 0
            with quiet():
                for pixels, label in islice(records, size):
                    if pixels is not None and not labelled:
                        images[filled], labels[filled] = pixels, 0
                    elif pixels is not None and label is not None and 0 <= label < top:
                        images[filled], labels[filled] = pixels, label
                    filled += 1
            if filled:
                yield images[:filled], labels[:filled]

    def __repr__(self) -> str:
        spec = self.spec
        return (
            f"{type(self).__name__}({self.name!r}, {spec.height}x{spec.width}x{spec.channels}, "
            f"{len(spec.classes) or 'no'} classes)"
        )


def digest_of_files(files: Iterable[Location], root: Path | None = None, reading: str = "") -> str:
    """Return the SHA-256 of names (below ``root``), states and ``reading``."""
    digest = hashlib.sha256(reading.encode())
    for file in files:
        shown = file.relative_to(root) if root and isinstance(file, Path) else file.name
        digest.update(os.fsencode(shown) + b"\0" + state_of(file).encode() + b"\0")
    return digest.hexdigest()
