"""Images made piece by piece, so that a killed run need not make them again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.methods.training import Session
from sfumato.privacy import distributed
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import stage


def in_pieces(
    what: str,
    settings: str,
    count: int,
    session: Session,
    make: Callable[[int], NDArray[np.uint8]],
) -> list[NDArray[np.uint8]]:
    """The images of each of ``count`` pieces, made or read from the session's folder.

    Args:
        what: names the work, on the screen and in its files.
        settings: digest of what the images follow from.
        count: number of pieces.
        session: where the work runs.
        make: makes the images of the piece of a number.

    Raises:
        LedgerError: a piece is damaged, or the disk refuses.
    """
    found: list[NDArray[np.uint8]] = []
    names = [f"{what}-{settings[:12]}-{number}.safetensors" for number in range(count)]
    paths = [session.folder / name if session.folder else None for name in names]
    begun = sum(path is not None and path.exists() for path in paths) / count
    with stage(what, session.quiet, begun) as report:
        for number, path in enumerate(paths):
            if path is not None and path.exists():
                found.append(unsealed(path)["images"].numpy())
                continue
            found.append(make(number))
            if path is not None and distributed.is_first():
                store(path, sealed({"images": torch.from_numpy(found[-1])}))
            report(max(begun, (number + 1) / count))
    return found
