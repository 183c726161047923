"""Units that an auditor puts in or leaves out by fair coins: records, where each is a unit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data import ImageSource, PublicSpec
from sfumato.data.source import Record
from sfumato.data.units import Key, PrivacyUnit
from sfumato.privacy import Relation

CELLS = 7
"""A canary image is a chequer of so many random cells a side: coarse enough for every feature."""

RECORDS = 3
"""Where a unit may have several records a canary has so many, all alike, so that a bound on records
instead of units shows, and so does a surplus that is used."""


def records_of(spec: PublicSpec) -> tuple[int, int]:
    """How many records a canary has, and how many of them a right curator uses."""
    if spec.unit is None:
        return 1, 1
    return RECORDS, min(RECORDS, spec.unit.records_per_unit)


def toss(canaries: int) -> NDArray[np.bool_]:
    """Fair coins from the operating system: whether each canary is present."""
    return np.random.default_rng().random(canaries) < 0.5


class NumberedCanaries(ImageSource):
    """Nothing but canaries; each record's pixels say its number and which of two records it is.

    Under replace-one an absent canary's other record stands in its place. With ``unit`` a canary
    is a unit of several such records. Nothing is private.
    """

    def __init__(
        self,
        present: NDArray[np.bool_],
        relation: Relation,
        classes: tuple[str, ...] = (),
        unit: PrivacyUnit | None = None,
    ) -> None:
        spec = PublicSpec(1, 4, 1, classes, declared_size=len(present), unit=unit)
        super().__init__("canaries", spec, "audit:canaries")
        self._present, self._relation = present, relation

    def _records(self) -> Iterator[Record]:
        rows = max(len(self.spec.classes), 1)
        for number in self._unit_keys():
            other = int(not self._present[number])
            digits = (number % 256, number // 256 % 256, number // 65536, other)
            yield np.array(digits, np.uint8).reshape(1, 1, 4), number % rows

    def _unit_keys(self) -> Iterator[int]:
        return _numbers(self._present, self._relation, self.spec)

    def _private_length(self) -> int:
        return sum(1 for _ in self._unit_keys())

    def fingerprint(self) -> str:
        return hashlib.sha256(self._present.tobytes()).hexdigest()


def _numbers(present: NDArray[np.bool_], relation: Relation, spec: PublicSpec) -> Iterator[int]:
    """The canary of each record that is there, in order; its other record counts too."""
    there = np.arange(len(present)) if relation == "replace-one" else np.flatnonzero(present)
    return iter(np.repeat(there, records_of(spec)[0]).tolist())


def numbers_of(images: Tensor, canaries: int) -> tuple[Tensor, Tensor]:
    """Each numbered canary's number, int64 ``[b]``, and whether it is the other record.

    The curator tries queries on random images too, so any image has a number below ``canaries``.
    """
    digits = images[:, 0, 0].to(torch.int64)
    number = digits[:, 0] + 256 * digits[:, 1] + 65536 * digits[:, 2]
    return number % canaries, digits[:, 3] > 0


@dataclass(frozen=True)
class CanaryImages:
    """Public random images, two for each canary, and a class for both.

    images, others uint8 ``[canaries, c, h, w]``; labels int64 ``[canaries]``. The others stand in
    for absent canaries under replace-one.
    """

    images: NDArray[np.uint8]
    others: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def draw(cls, spec: PublicSpec, canaries: int, seed: int = 0) -> CanaryImages:
        """Chequers of black and white cells with random classes, from a public seed."""
        rng = np.random.default_rng(seed)
        cells = rng.integers(2, size=(2, canaries, spec.channels, CELLS, CELLS), dtype=np.uint8)
        rows, columns = (np.arange(side) * CELLS // side for side in (spec.height, spec.width))
        images = 255 * cells[..., rows, :][..., columns]
        labels = rng.integers(max(len(spec.classes), 1), size=canaries)
        return cls(images[0], images[1], labels)

    def __len__(self) -> int:
        return len(self.labels)


class WithCanaries(ImageSource):
    """A data set and those of the canaries whose coins fell that way. PRIVATE like the data set."""

    def __init__(
        self,
        source: ImageSource,
        canaries: CanaryImages,
        present: NDArray[np.bool_],
        relation: Relation,
    ) -> None:
        super().__init__(source.name, source.spec, f"audit:{source.location_key}")
        self._source, self._canaries = source, canaries
        self._present, self._relation = present, relation

    def _records(self) -> Iterator[Record]:
        for images, labels in self._source.batches(256):
            for image, label in zip(images, labels, strict=True):
                yield (image, int(label)) if label >= 0 else (None, None)
        for number in self._numbers():
            inside = self._present[number]
            images = self._canaries.images if inside else self._canaries.others
            yield images[number], int(self._canaries.labels[number])

    def _numbers(self) -> Iterator[int]:
        return _numbers(self._present, self._relation, self.spec)

    def _unit_keys(self) -> Iterator[Key]:
        yield from self._source._unit_keys()
        # Bytes, and so long: no key of DATA.
        yield from (f"{self.location_key} {number}".encode() for number in self._numbers())

    def _private_length(self) -> int:
        return self._source._private_length() + sum(1 for _ in self._numbers())

    def fingerprint(self) -> str:
        own = hashlib.sha256(self._present.tobytes()).hexdigest()
        return hashlib.sha256((self._source.fingerprint() + own).encode()).hexdigest()
