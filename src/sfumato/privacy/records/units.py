"""Which unit each record belongs to, and how much of its unit each record is.

Only units' keys are read here, no image. What a unit keeps is a function of that unit alone;
``docs/proofs/units.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sfumato.data.source import ImageSource
from sfumato.data.units import Key, Part
from sfumato.errors import DataError
from sfumato.privacy.grid import UNIT
from sfumato.privacy.noise.entropy import Stream


@dataclass(frozen=True, repr=False)
class Units:
    """The units of a data set. PRIVATE.

    ``owner`` int64 ``[records]``: the unit of each record, -1 for one that is surplus.
    ``kept`` int64 ``[units]``: how many records each unit keeps, at least one.
    """

    owner: NDArray[np.int64]
    kept: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kept)

    def check(self, records: int) -> None:
        """Raise DataError unless there were as many records as keys."""
        if len(self.owner) != records:
            raise DataError("the units' keys are cut off or damaged. Copy the data set again.")

    def bounds(self) -> NDArray[np.int64]:
        """The bound on each record in grid steps, ⌊2²⁰/m_u⌋; 0 for one that is surplus."""
        return np.where(self.owner >= 0, UNIT // self.kept[self.owner], 0)

    def one_each(self, units: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """One kept record of each given unit, chosen uniformly: int64 ``[u]``."""
        order, start = self._places
        place = stream.below(self.kept[units].astype(np.uint64)).astype(np.int64)
        return order[start[units] + place]

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Kept records, unit by unit, and where each unit's begin."""
        order = np.argsort(self.owner, kind="stable")
        return order[np.sum(self.owner < 0) :], np.cumsum(self.kept) - self.kept


def units_of(source: ImageSource) -> Units | None:
    """The units of a data set; None where each record is one."""
    unit = source.spec.unit
    if unit is None:
        return None
    return group(source._unit_keys(), unit.records_per_unit, source.part)


def group(keys: Iterable[Key], most: int, part: Part | None = None) -> Units:
    """Group records by key, None being a unit of its own, and keep at most ``most`` of each.

    In a shard that a unit does not belong to none of its records is kept.
    """
    number: dict[Key, int] = {}
    known: list[Key] = []
    owners: list[int] = []
    for key in keys:
        unit = len(known) if key is None else number.setdefault(key, len(known))
        if unit == len(known):
            known.append(key)
        owners.append(unit)
    owner = np.array(owners, np.int64)
    size = np.bincount(owner, minlength=len(known))
    order = np.argsort(owner, kind="stable")
    end = np.cumsum(size)
    for large in np.flatnonzero(size > most):
        records = order[end[large] - size[large] : end[large]]
        owner[records[_surplus(known[large], len(records), most)]] = -1
    if part is not None:
        strange = np.array([not part.holds(key) for key in known], np.bool_)
        owner[(owner >= 0) & strange[owner]] = -1
    return Units(owner, np.minimum(size, most))


def _surplus(key: Key, size: int, most: int) -> list[int]:
    """Which of a unit's records, by their place in it, are left out: those of the largest hash."""

    def rank(place: int) -> bytes:
        return blake2b(repr(key).encode(), salt=place.to_bytes(16, "big")).digest()

    return sorted(range(size), key=rank)[most:]
