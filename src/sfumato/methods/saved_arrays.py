"""Released arrays and networks: written by name, checked before any memory is taken for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec

Network = TypeVar("Network", bound=nn.Module)


def checked_counts(counts: NDArray[Any], spec: PublicSpec) -> NDArray[np.float64]:
    """Return class sizes if there is a finite one for each class, else raise ValueError."""
    if counts.shape != (max(1, len(spec.classes)),) or counts.dtype.kind != "f":
        raise ValueError("there must be one noisy size for each class")
    if not np.isfinite(counts).all():
        raise ValueError("the class sizes must be finite")
    return counts.astype(np.float64)


def arrays_of(network: nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    """The weights of ``network`` by name, each name after ``prefix`` and a full stop."""
    weights = network.state_dict().items()
    return {f"{prefix}.{name}": value.cpu().contiguous().numpy() for name, value in weights}


def tensors_below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """The arrays whose name begins with ``prefix`` and a full stop, without them."""
    start = f"{prefix}."
    return {
        name[len(start) :]: torch.from_numpy(np.array(value))
        for name, value in arrays.items()
        if name.startswith(start)
    }


def loaded(make: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """The network that ``make`` makes, with ``weights``, ready to be used.

    A file can claim a network of any size; on the meta device it is made without its weights
    first. One that has a layer of size 0 is refused too.

    Raises:
        ValueError: the weights have other names or shapes than the network's.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of layers of size 0
        expected = {name: value.shape for name, value in make().state_dict().items()}
    known = {name: value.shape for name, value in weights.items()}
    if expected != known or not all(all(shape) for shape in expected.values()):
        raise ValueError("the tensors are not those of the stated network")
    network = make()
    network.load_state_dict(weights)
    return network.eval()
