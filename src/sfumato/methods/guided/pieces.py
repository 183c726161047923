"""Images made piece by piece, by all ranks in turns; a killed run need not make them again."""

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

    Ranks make the pieces in turns, and all of them get all.

    Args:
        what: names the work, on the screen and in its files.
        settings: digest of what the images follow from.
        count: number of pieces.
        session: where the work runs.
        make: makes the images of the piece of a number, which depend on nothing else.

    Raises:
        LedgerError: a piece is damaged, or the disk refuses.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    names = [f"{what}-{settings[:12]}-{number}.safetensors" for number in range(count)]
    paths = [session.folder / name if session.folder else None for name in names]
    first = distributed.is_first()
    for number, path in enumerate(paths):
        if first and path is not None and path.exists():
            found[number] = unsealed(path)["images"].numpy()
    missing = distributed.from_first([number for number in range(count) if number not in found])
    with stage(what, session.quiet, len(found) / count) as report:
        turns = distributed.in_turns(len(missing), lambda turn: make(missing[turn]))
        for number, images in zip(missing, turns, strict=False):  # on the first rank alone
            found[number], path = images, paths[number]
            if path is not None:
                store(path, sealed({"images": torch.from_numpy(images)}))
            report(len(found) / count)
    return distributed.from_first([found[number] for number in range(count)] if first else None)
