"""The state of a training run as one file of tensors, and back: nothing in it is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.privacy.runs import store
from sfumato.privacy.sealed import sealed, unsealed


@dataclass(frozen=True)
class Training:
    """What a training run changes: networks, one optimiser, public random state, other tensors.

    ``tensors`` are overwritten in place when a state is restored.
    """

    networks: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    tensors: Mapping[str, Tensor]

    def save(self, path: Path, step: int) -> None:
        """Replace the file at ``path`` by the state after ``step`` steps, whole or not at all.

        Raises:
            LedgerError: the disk refuses.
        """
        state = {"step": torch.tensor(step), "generator": self.generator.get_state()}
        for name, network in self.networks.items():
            state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        state |= {f"tensors.{key}": value for key, value in self.tensors.items()}
        store(path, sealed({key: value.clone() for key, value in state.items()}))

    def restore(self, path: Path) -> int:
        """Take the state from ``path`` and return the number of steps done.

        Raises:
            LedgerError: the file is damaged.
        """
        state = unsealed(path, "Restore the file, or pass --fresh to charge a new run.")
        self.generator.set_state(state["generator"])
        for name, network in self.networks.items():
            network.load_state_dict(below(state, f"{name}."))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in below(state, "optimizer.").items():
            index, _, field = key.partition(".")
            moments.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for key, value in self.tensors.items():
            value.copy_(state[f"tensors.{key}"])
        return int(state["step"])


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
