"""Arrays read row by row from a stream, so that no array of a whole data set is ever held."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase

import numpy as np

from sfumato.errors import DataError

CHUNK = 2**20
"""Bytes read at once, unless one row is longer."""


def rows(
    stream: BufferedIOBase, count: int, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Yield all rows of the given shape and dtype that a stream holds.

    Raises EOFError if there are fewer than ``count``, ValueError if more.
    """
    width = math.prod(shape) * dtype.itemsize
    step = max(1, CHUNK // max(1, width))
    for start in range(0, count, step):
        here = min(step, count - start)
        data = read_exactly(stream, here * width)
        yield from np.frombuffer(data, dtype).reshape(here, *shape)
    # Only at its end does a packed stream compare its checksum.
    if stream.read(1):
        raise ValueError


def short_rows(stream: BufferedIOBase, count: int, width: int, most: int) -> Iterator[bytes | None]:
    """Yield rows of ``width`` bytes of which ``most`` are kept; None where more than zeros follow.

    The width of a text array is that of its longest text, which is one record's. Raises EOFError if
    there are fewer than ``count`` rows.
    """
    for _ in range(count):
        row: bytes | None = read_exactly(stream, min(width, most))
        for start in range(most, width, CHUNK):
            if any(read_exactly(stream, min(CHUNK, width - start))):
                row = None
        yield row


def read_exactly(stream: BufferedIOBase, size: int) -> bytes:
    """Read ``size`` bytes. Raises EOFError if there are fewer."""
    parts = []
    while size > 0:
        part = stream.read(min(size, CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


_DAMAGE = (
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def damage_as_data_error(where: str) -> Iterator[None]:
    """Turn what a cut-off or damaged stream raises into a DataError that names the file."""
    try:
        yield
    except _DAMAGE:
        raise DataError(
            f"{where}: the file is cut off or damaged. Copy or download it again."
        ) from None
