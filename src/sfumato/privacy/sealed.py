"""Tensors on disk that notice damage: safetensors with a digest of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sfumato.errors import LedgerError

WAY_OUT = "Restore the file, or pass --fresh (fresh=True) to charge a new run."


def sealed(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file of ``tensors``, of any dtypes and shapes, which share no memory."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(kept, {"sha256": _digest(kept)})


def unsealed(path: Path, way_out: str = WAY_OUT) -> dict[str, Tensor]:
    """The tensors of a file that :func:`sealed` made.

    Raises:
        LedgerError: it is missing, cut off or changed; the message ends with ``way_out``.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
        whole = _digest(tensors) == expected
    except Exception:
        whole = False
    if not whole:
        raise LedgerError(f"{path} is damaged. {way_out}")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)  # not copied
    return found.hexdigest()
