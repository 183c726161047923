"""Results kept by the digest of everything they depend on, so that nothing is computed twice.

The caller names the folder. What is computed from private data must be cached under ``private/``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import mkstemp

import numpy as np

from sfumato.data.arrays import LabelledImages
from sfumato.disk import OWNER_ONLY, private_folder


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over type, shape and content of ``arrays``, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def images_digest(images: LabelledImages) -> str:
    """SHA-256 of images, labels and class names."""
    content = array_digest(images.images, images.labels)
    return hashlib.sha256(repr((content, images.classes)).encode()).hexdigest()


def key(*parts: object) -> str:
    """A file name (32 hexadecimal digits) for the result that ``parts`` determine."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path`` that then takes its place in one step.

    Two processes may write the same result at once: each has its own file, and the last one wins.
    """
    private_folder(path.parent)
    handle, name = mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(OWNER_ONLY)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
