"""Whether saved arrays are those of a model, found out before any memory is taken for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec


def checked_counts(counts: NDArray[Any], spec: PublicSpec) -> NDArray[np.float64]:
    """Return class sizes if there is a finite one for each class, else raise ValueError."""
    if counts.shape != (max(1, len(spec.classes)),) or counts.dtype.kind != "f":
        raise ValueError("there must be one noisy size for each class")
    if not np.isfinite(counts).all():
        raise ValueError("the class sizes must be finite")
    return counts.astype(np.float64)


def check_tensors(network: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless ``tensors`` have the names and shapes of what ``network`` makes.

    A file can claim a network of any size; on the meta device it is made without its weights. One
    that has a layer of size 0 is refused too.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of layers of size 0
        expected = {name: value.shape for name, value in network().state_dict().items()}
    known = {name: value.shape for name, value in tensors.items()}
    if expected != known or not all(all(shape) for shape in expected.values()):
        raise ValueError("the tensors are not those of the stated network")
