"""Which other ledger's images a data set repeats: keyed hashes of a few thousand of its records.

A record's hash is taken over its pixels as a 32 x 32 colour square, so that a copy is recognised in
another place, under another name and in another container. A sketch keeps the smallest hashes, a
uniform sample of the distinct records that is the same sample in every copy (bottom-k sketch: Cohen
and Kaplan, *Summarizing data using bottom-k sketches*, 2007). The key and the sketches are private
and stay in the state folder; without the key nobody can tell whether an image is in a sketch.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from sfumato.data.decoding.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.disk import write_atomically
from sfumato.errors import LedgerError, SfumatoError

Wanted = Callable[[int], bool]
"""Which records, by their numbers."""

SIZE = 2**14
SAME = 0.5
"""Data sets repeat each other where this share of the smaller one's sample is in both."""
LEAST = 2
"""Fewer hashes are no sample: one black image must not look like a copy."""

KEY_BYTES = 32
_CANONICAL = PublicSpec(height=32, width=32, channels=3, classes=())
_BATCH = 4096
_TURN = 256
"""So many records in a row are one rank's."""
_NO_LIMIT = 2**64 - 1


@dataclass(frozen=True)
class Sketch:
    """The smallest distinct hashes of a data set's records, uint64, ascending. PRIVATE."""

    hashes: NDArray[np.uint64]

    def with_more(self, hashes: NDArray[np.uint64]) -> Sketch:
        """The sketch of both sets of records together."""
        return Sketch(np.unique(np.concatenate([self.hashes, hashes]))[:SIZE])

    def repeats(self, other: Sketch) -> bool:
        """Whether at least half of the smaller data set, by this sample, is in the other one too.

        Below the smaller of the two largest kept hashes both sketches hold every record's hash.
        """
        limit = min(self._limit, other._limit)
        ours, theirs = (kept[kept <= limit] for kept in (self.hashes, other.hashes))
        fewest = min(len(ours), len(theirs))
        return fewest >= LEAST and len(np.intersect1d(ours, theirs)) >= SAME * fewest

    @property
    def _limit(self) -> int:
        return int(self.hashes[-1]) if len(self.hashes) == SIZE else _NO_LIMIT


def known_sketch(folder: Path, key: bytes) -> Sketch | None:
    """The stored sketch of a ledger's folder; None where there is none under this key."""
    kept = _stored(folder)
    return kept[0] if kept and kept[1] == _name_of(key) else None


def sketch_of(source: ImageSource, folder: Path, key: bytes, shared: bool = False) -> Sketch:
    """The sketch of all that the ledger in ``folder`` was ever about, with ``source``; stored.

    Records are read once for each state of the files.

    Args:
        shared: all ranks of a run call this, and each hashes its part of the records. The sketch is
            the same: the smallest hashes of a union are the smallest of its parts' smallest ones.

    Raises:
        SfumatoError: they cannot be read (the message is withheld), or the disk refuses.
    """
    kept, fingerprint = _stored(folder), sha256(source.fingerprint().encode()).hexdigest()
    sketch, seen = Sketch(np.zeros(0, np.uint64)), list[str]()
    if kept and kept[1] == _name_of(key):
        sketch, _, seen = kept
    unread, first = fingerprint not in seen, True
    if shared:
        from sfumato.privacy import distributed  # with PyTorch: the command ledger needs none

        rank, ranks = distributed.rank(), distributed.size()
        first = rank == 0
        if unread := distributed.from_first(unread):  # what the first rank found stored counts
            own = _read(source, key, lambda record: record // _TURN % ranks == rank)
            for hashes in distributed.everyones(own.hashes):
                sketch = sketch.with_more(hashes)
    elif unread:
        sketch = sketch.with_more(_read(source, key).hashes)
    if unread and first:
        about = {"key": _name_of(key), "seen": json.dumps([*seen, fingerprint])}
        try:
            write_atomically(_path(folder), save({"hashes": sketch.hashes}, about))
        except OSError as error:
            raise LedgerError(
                f"{_path(folder)} cannot be written ({error.strerror}). Free the disk, or give a "
                "writable folder with --state (state=)."
            ) from error
    return sketch


def sketch_key(state: Path) -> bytes:
    """The state folder's key, made at first use; call while its ledgers are locked."""
    path = state / "sketch.key"
    if not path.exists():
        write_atomically(path, secrets.token_bytes(KEY_BYTES))
    return path.read_bytes()


def _read(source: ImageSource, key: bytes, wanted: Wanted = lambda record: True) -> Sketch:
    """The sketch of the ``wanted`` records of ``source``; a cluster splits all of them itself."""
    # Silent, because the text of a warning or an error may quote what a record holds.
    with quiet():
        try:
            if source.cluster is None:
                return _hashed(key, source, wanted)
            sketch = Sketch(np.zeros(0, np.uint64))
            for _, own in source.cluster.each(partial(_hashed, key), source.by_shard()):
                sketch = sketch.with_more(own.hashes)
            return sketch
        except SfumatoError:
            raise
        except Exception as error:
            failure = type(error).__name__
    raise SfumatoError(
        f"reading the private data failed with {failure} (the message is withheld). Nothing was "
        "charged."
    )


def _hashed(key: bytes, source: ImageSource, wanted: Wanted = lambda record: True) -> Sketch:
    canonical, sketch = copy(source), Sketch(np.zeros(0, np.uint64))
    canonical.spec = _CANONICAL
    pixels = (image for image, _ in canonical._decoded(wanted) if image is not None)
    while images := list(islice(pixels, _BATCH)):
        digests = [blake2b(p.tobytes(), digest_size=8, key=key).digest() for p in images]
        sketch = sketch.with_more(np.frombuffer(b"".join(digests), np.uint64))
    return sketch


def _stored(folder: Path) -> tuple[Sketch, str, list[str]] | None:
    try:
        with safe_open(_path(folder), "numpy") as file:
            about = file.metadata()
            return Sketch(file.get_tensor("hashes")), about["key"], json.loads(about["seen"])
    except Exception:  # missing, or damaged: then it is made again
        return None


def _path(folder: Path) -> Path:
    return folder / "sketch.safetensors"


def _name_of(key: bytes) -> str:
    return sha256(b"sketch" + key).hexdigest()[:16]
