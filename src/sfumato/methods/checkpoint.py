"""Training that goes on where it was stopped; its state is a file of tensors, nothing executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.privacy import SAVED_EVERY, distributed
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import stage


@dataclass(frozen=True)
class Training:
    """What a training run changes: networks, one optimiser, public random state, other tensors.

    ``tensors`` are overwritten in place when a state is restored.
    """

    networks: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    tensors: Mapping[str, Tensor]

    def run(
        self,
        what: str,
        steps: int,
        advance: Callable[[int], None],
        folder: Path | None,
        quiet: bool,
        saved: Callable[[int], None] | None = None,
    ) -> None:
        """Let ``advance`` take each step up to ``steps`` that a stopped run has not taken.

        Args:
            what: names the phase, on the screen and in its checkpoint.
            steps: number of steps in all.
            advance: takes the step of a number.
            folder: where the checkpoint is kept; None keeps none.
            quiet: show no progress.
            saved: told after how many steps a checkpoint was written.

        Raises:
            LedgerError: the checkpoint is damaged, or the disk refuses.
        """
        path = folder / f"checkpoint-{what.replace(' ', '-')}.safetensors" if folder else None
        step = self.restore(path) if path and path.exists() else 0
        for network in self.networks.values():
            for parameter in network.parameters():
                distributed.tensor_from_first(
                    parameter.data
                )  # ranks on other machines round otherwise
        with stage(what, quiet, step / steps) as report:
            while step < steps:
                advance(step)
                step += 1
                report(step / steps)
                if path and (step % SAVED_EVERY == 0 or step == steps):
                    if distributed.is_first():
                        self.save(path, step)
                    if saved is not None:
                        saved(step)

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
