"""Decoding by worker processes, in order and with the same bytes as in the process itself.

Workers are started anew (never forked) for one pass over the records, and end with it. What they
print goes nowhere, they know no more of a record than its encoded bytes, and their pixels come back
through shared memory. The first two thousand records are decoded in the process itself, so that a
small data set starts no process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.shared_memory import SharedMemory
from types import ModuleType

import numpy as np

from sfumato.data.decoding.decode import decode
from sfumato.data.options import DataOptions
from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError

Stored = bytes | np.ndarray | None
"""A record as a reader finds it: encoded, or as uint8 [channels, height, width], or unusable."""
Labelled = tuple[Stored, int | None]
Decoded = tuple[np.ndarray | None, int | None]

HEAD_RECORDS, HEAD_BYTES = 2048, 2**25
"""So much is decoded in the process itself before workers are started."""
PIECE_RECORDS = 128
PIECE_BYTES = 2**20
"""Encoded bytes, and pixels, of one piece of work: all together need little shared memory."""
WAITING_BYTES = 2**28
"""Encoded bytes that wait for workers; above it the oldest piece is waited for."""


def decoded(
    records: Iterable[Labelled], spec: PublicSpec, options: DataOptions
) -> Iterator[Decoded]:
    """Yield each record's pixels, uint8 [channels, height, width] or None, and label, in order.

    With ``options.workers`` above 1 encoded records are decoded by so many processes.

    Raises:
        DataError: a worker was ended from outside, or crashed.
    """
    source, workers = iter(records), options.workers or 1
    first = source if workers == 1 else _head(source)
    yield from ((_pixels(stored, spec, options), label) for stored, label in first)
    if (after := next(source, None)) is None:
        return
    waiting: deque[_Piece] = deque()
    with _started(workers, spec, options) as pool:
        for piece in _pieces(chain([after], source), pool.length):
            together = piece.size + sum(other.size for other in waiting)
            while waiting and (not pool.free or together > WAITING_BYTES):
                together -= waiting[0].size
                yield from pool.finished(waiting.popleft())
            pool.submit(piece)
            waiting.append(piece)
        while waiting:
            yield from pool.finished(waiting.popleft())


def _pixels(stored: Stored, spec: PublicSpec, options: DataOptions) -> np.ndarray | None:
    return decode(stored, spec, options) if isinstance(stored, bytes) else stored


def _size(record: Labelled) -> int:
    return len(record[0]) if isinstance(record[0], bytes) else 0


def _head(records: Iterator[Labelled]) -> Iterator[Labelled]:
    """The first records, so few that no process is started for them."""
    count = size = 0
    while count < HEAD_RECORDS and size < HEAD_BYTES and (one := next(records, None)) is not None:
        count, size = count + 1, size + _size(one)
        yield one


@dataclass
class _Piece:
    """Some records in a row, their encoded bytes, and what becomes of them."""

    records: list[Labelled]
    size: int
    slot: int = -1
    usable: Future[list[bool]] | None = None


def _pieces(records: Iterator[Labelled], length: int) -> Iterator[_Piece]:
    """Runs of at most ``length`` records; fewer where their encoded bytes are many."""
    while (one := next(records, None)) is not None:
        piece = _Piece([one], _size(one))
        while len(piece.records) < length and piece.size < PIECE_BYTES:
            if (one := next(records, None)) is None:
                break
            piece.records.append(one)
            piece.size += _size(one)
        yield piece


class _Workers:
    """Processes that decode pieces into slots of a shared memory, ``[slots, length, c, h, w]``."""

    def __init__(self, pool: ProcessPoolExecutor, slots: np.ndarray) -> None:
        self._pool, self._slots = pool, slots
        self.length = slots.shape[1]
        self.free = list(range(len(slots)))

    def submit(self, piece: _Piece) -> None:
        """Have one piece decoded into a free slot."""
        piece.slot = self.free.pop()
        if encoded := [stored for stored, _ in piece.records if isinstance(stored, bytes)]:
            with _apart(), _told_as_data_error():
                piece.usable = self._pool.submit(_decode_piece, piece.slot, encoded)

    def finished(self, piece: _Piece) -> Iterator[Decoded]:
        """The records of a piece, when its worker is done."""
        with _told_as_data_error():
            usable = iter([] if piece.usable is None else piece.usable.result())
        pixels = iter(self._slots[piece.slot].copy())
        self.free.append(piece.slot)
        for stored, label in piece.records:
            if isinstance(stored, bytes):
                own = next(pixels)
                yield own if next(usable) else None, label
            else:
                yield stored, label


@contextmanager
def _started(workers: int, spec: PublicSpec, options: DataOptions) -> Iterator[_Workers]:
    pixels = spec.channels * spec.height * spec.width
    length = max(1, min(PIECE_RECORDS, PIECE_BYTES // pixels))
    shape = (2 * workers, length, spec.channels, spec.height, spec.width)
    memory = SharedMemory(create=True, size=2 * workers * length * pixels)
    try:
        pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            _begin,
            (memory.name, shape, spec, options),
        )
        try:
            yield _Workers(pool, np.ndarray(shape, np.uint8, memory.buf))
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        memory.unlink()
        with suppress(BufferError):  # an error on its way up may hold a view: it ends later
            memory.close()


@contextmanager
def _told_as_data_error() -> Iterator[None]:
    try:
        yield
        return
    except BrokenProcessPool:
        pass  # and the text of what the worker said last is not kept
    raise DataError(
        "a process that decodes images has ended before its work was done: it was killed, or there "
        "is too little memory. Nothing is lost: run the same command again, with fewer workers or "
        "workers=1 if it happens again."
    )


@contextmanager
def _apart() -> Iterator[None]:
    """A process that is started in here has to do with nothing but its work.

    It does not run the program's own script again, as a started process otherwise does: that would
    take as long as the script's imports, and a script without ``if __name__ == "__main__"`` would
    start over. And it never gets Ctrl-C: the process that started it ends it.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with _no_interrupts():
            yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def _no_interrupts() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Of a worker, from its beginning on:
_memory: SharedMemory
_slots: np.ndarray
_spec: PublicSpec
_options: DataOptions


def _begin(name: str, shape: tuple[int, ...], spec: PublicSpec, options: DataOptions) -> None:
    """Prepare a worker: mute it, end it with the process that started it, find the memory."""
    global _memory, _slots, _spec, _options
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _memory = SharedMemory(name)
    _slots, _spec, _options = np.ndarray(shape, np.uint8, _memory.buf), spec, options


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _decode_piece(slot: int, encoded: list[bytes]) -> list[bool]:
    """Which of the encoded images are usable; their pixels are in the slot then."""
    usable = []
    for place, data in enumerate(encoded):
        pixels = decode(data, _spec, _options)
        usable.append(pixels is not None)
        if pixels is not None:
            _slots[slot, place] = pixels
    return usable
