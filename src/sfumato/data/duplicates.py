"""Which records look alike: what a custodian must know, and nobody else may."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.source import ImageSource

NEAR_BITS = 4
LEAST_CORRELATION = 0.995
"""Two images look alike if their hashes differ in at most so many of 64 bits, and if 14x14 grey
thumbnails of them correlate at least so much."""
_SIDE = 8
_BANDS = NEAR_BITS + 1
"""Bands of bits: of two hashes that differ in 4 bits, one of 5 bands is equal (pigeonhole)."""
_BATCH = 256
_MOST_IN_BAND = 2000
"""A band that more images share says nothing of them; such images are flat or all alike."""
_FLATTEST = 1.0
"""Standard deviation, in grey levels, below which an image is empty and like any other."""
_THUMBNAIL = 14


@dataclass(frozen=True, repr=False)
class Repetition:
    """What :func:`find_repetition` counted. PRIVATE: for the custodian's eyes only.

    records, unusable: numbers of records. exact, near: groups of at least two records, by file name
    where files are records, else by number from zero: with equal pixels, and with pixels that look
    alike without being equal (one record stands for all that equal it).
    """

    records: int
    unusable: int
    exact: list[list[str]]
    near: list[list[str]]

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values. PRIVATE."""
        return asdict(self)


def find_repetition(source: ImageSource) -> Repetition:
    """Walk over all records once and group those whose pixels repeat, exactly or nearly.

    Equal means equal after reading: size, channels and crop of ``source.spec``. Alike means
    difference hashes within ``NEAR_BITS`` and a correlation of ``LEAST_CORRELATION``, joined
    transitively; brightness, contrast, mild noise, scaling and re-encoding keep both. Flat images
    are compared exactly only. Memory: about 1 kB a record. Raises DataError as
    ``ImageSource.batches`` does.
    """
    equal: dict[bytes, list[int]] = {}
    hashes: list[NDArray[np.uint64]] = []
    small: list[NDArray[np.float32]] = []
    flat: list[NDArray[np.bool_]] = []
    records = unusable = 0
    for images, labels in source.batches(_BATCH):
        for offset in np.flatnonzero(labels >= 0).tolist():
            digest = hashlib.blake2b(images[offset].tobytes(), digest_size=16).digest()
            equal.setdefault(digest, []).append(records + offset)
        grey = images.mean(axis=1, dtype=np.float64)
        reduced = _reduced(grey, _THUMBNAIL, _THUMBNAIL).reshape(len(images), -1)
        deviations = reduced.std(axis=1)
        flat.append(deviations < _FLATTEST)
        standard = (reduced - reduced.mean(axis=1, keepdims=True)).astype(np.float32)
        small.append(standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-9))
        hashes.append(_difference_hashes(grey))
        records += len(labels)
        unusable += int((labels < 0).sum())
    exact = [group for group in equal.values() if len(group) > 1]
    near: list[list[int]] = []
    if hashes:
        # One record stands for all that are equal to it.
        kept = np.array([group[0] for group in equal.values()], np.int64)
        kept = kept[~np.concatenate(flat)[kept]]
        near = _alike(kept, np.concatenate(hashes), np.concatenate(small))
    return Repetition(records, unusable, *(_named(source, groups) for groups in (exact, near)))


def _named(source: ImageSource, groups: list[list[int]]) -> list[list[str]]:
    """Names that a terminal can show: what it cannot print is escaped."""
    return [[repr(source._private_name(index))[1:-1] for index in group] for group in groups]


def _difference_hashes(grey: NDArray[np.float64]) -> NDArray[np.uint64]:
    """One bit for each of 8x8 areas: is it darker than its right neighbour (dHash)?"""
    small = _reduced(grey, _SIDE, _SIDE + 1)
    bits = (small[:, :, :-1] < small[:, :, 1:]).reshape(len(grey), -1)
    powers = np.uint64(1) << np.arange(_SIDE * _SIDE, dtype=np.uint64)
    hashes: NDArray[np.uint64] = (bits * powers).sum(axis=1, dtype=np.uint64)
    return hashes


def _reduced(grey: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """``[b, h, w]`` averaged over ``height`` x ``width`` areas."""
    return _areas(grey.shape[1], height) @ grey @ _areas(grey.shape[2], width).T


def _areas(size: int, count: int) -> NDArray[np.float64]:
    """Rows that average ``size`` pixels into ``count`` areas, parts of pixels by their share."""
    edges = np.linspace(0, size, count + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float64] = np.clip(overlap, 0, None) * count / size
    return weights


def _alike(
    kept: NDArray[np.int64], hashes: NDArray[np.uint64], small: NDArray[np.float32]
) -> list[list[int]]:
    """Groups of the records ``kept`` that look alike, joined transitively."""
    leader = {int(record): int(record) for record in kept}

    def first(record: int) -> int:
        while leader[record] != record:
            leader[record] = record = leader[leader[record]]
        return record

    for left, right in _close_pairs(kept, hashes, small):
        one, other = sorted((first(left), first(right)))
        leader[other] = one
    groups: dict[int, list[int]] = {}
    for record in leader:
        groups.setdefault(first(record), []).append(record)
    return [group for group in groups.values() if len(group) > 1]


def _close_pairs(
    kept: NDArray[np.int64], hashes: NDArray[np.uint64], small: NDArray[np.float32]
) -> Iterator[tuple[int, int]]:
    """Pairs that look alike, each at least once, without comparing all with all."""
    edges = np.linspace(0, _SIDE * _SIDE, _BANDS + 1).astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes[kept] >> np.uint64(low)) & mask
        order = np.argsort(band, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            if not 1 < len(part) <= _MOST_IN_BAND:
                continue
            members = kept[part]
            for place, record in enumerate(members[:-1]):
                others = members[place + 1 :]
                differing = (hashes[others] ^ hashes[record]).view(np.uint8).reshape(-1, 8)
                near = np.unpackbits(differing, axis=1).sum(axis=1) <= NEAR_BITS
                alike = small[others[near]] @ small[record] >= LEAST_CORRELATION
                for other in others[near][alike]:
                    yield int(record), int(other)
