"""The training loop of all methods: steps, progress, a running average, and a checkpoint.

A checkpoint is a file of tensors, nothing in it is executed. A killed run goes on from the newest
one and ends with the same weights as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.devices import CPU
from sfumato.networks import Average
from sfumato.privacy import SAVED_EVERY, Curator, UnitLoss, distributed
from sfumato.privacy.gradients.layers import unflatten
from sfumato.privacy.gradients.per_example import trained
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import stage


@dataclass(frozen=True)
class Session:
    """Where a run keeps its checkpoints (None: nowhere), what it shows, and where it computes."""

    folder: Path | None = None
    quiet: bool = False
    device: torch.device = CPU

    @classmethod
    def of(cls, curator: Curator) -> Session:
        """The session of the curator's open run."""
        return cls(curator.run_folder, curator.quiet, curator.device)


@dataclass(frozen=True)
class Training:
    """What a phase of training changes, and so what its checkpoints hold.

    Args:
        session: where the phase runs.
        networks: whose weights change, by name.
        optimizer: changes them; its learning rates are those of a step whose ``rate`` is 1.
        random: public random numbers.
        average: the running average of one of the networks.
        tensors: other state by name; overwritten in place when a checkpoint is restored.
        rate: factor of the learning rates at a step.
    """

    session: Session
    networks: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    random: torch.Generator
    average: Average[Any] | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    rate: Callable[[int], float] = lambda step: 1.0

    def run(
        self,
        what: str,
        steps: int,
        advance: Callable[[int], None],
        saved: Callable[[int], None] | None = None,
    ) -> None:
        """Let ``advance`` take each step up to ``steps`` that a stopped run has not taken.

        Args:
            what: names the phase, on the screen and in its checkpoint.
            steps: number of steps in all.
            advance: takes the step of a number.
            saved: told after how many steps a checkpoint was written.

        Raises:
            LedgerError: the checkpoint is damaged, or the disk refuses.
        """
        folder = self.session.folder
        path = folder / f"checkpoint-{what.replace(' ', '-')}.safetensors" if folder else None
        step = self.restore(path) if path and path.exists() else 0
        for network in self._all_networks().values():
            for parameter in network.parameters():
                # Ranks on other machines may have rounded their first weights otherwise.
                distributed.tensor_from_first(parameter.data)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        with stage(what, self.session.quiet, step / steps) as report:
            while step < steps:
                for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self.rate(step)
                advance(step)
                step += 1
                report(step / steps)
                if path and (step % SAVED_EVERY == 0 or step == steps):
                    if distributed.is_first():
                        self.save(path, step)
                    if saved is not None:
                        saved(step)

    def along(
        self,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
        largest: float | None = None,
    ) -> None:
        """One step of the optimiser for ``parameters`` alone, along their ``gradients``.

        The gradients' common L2 norm is brought down to ``largest`` where it is larger.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        if largest is not None:
            torch.nn.utils.clip_grad_norm_(parameters, largest)
        self.optimizer.step()

    def save(self, path: Path, step: int) -> None:
        """Replace the file at ``path`` by the state after ``step`` steps, whole or not at all.

        Raises:
            LedgerError: the disk refuses.
        """
        state = {"step": torch.tensor(step), "random": self.random.get_state()}
        for name, network in self._all_networks().items():
            state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        state |= {f"tensors.{key}": value for key, value in self.tensors.items()}
        store(path, sealed({key: value.cpu().clone() for key, value in state.items()}))

    def restore(self, path: Path) -> int:
        """Take the state from ``path`` and return the number of steps done.

        Raises:
            LedgerError: the file is damaged.
        """
        state = unsealed(path)
        self.random.set_state(state["random"])
        for name, network in self._all_networks().items():
            network.load_state_dict(below(state, f"{name}."))
        moments: dict[int, dict[str, Any]] = {}
        for key, value in below(state, "optimizer.").items():
            index, _, entry = key.partition(".")
            moments.setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for key, value in self.tensors.items():
            value.copy_(state[f"tensors.{key}"])
        return int(state["step"])

    def _all_networks(self) -> dict[str, nn.Module]:
        averaged = {} if self.average is None else {"average": self.average.network}
        return {**self.networks, **averaged}


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def noisy_mean_gradient(
    curator: Curator,
    name: str,
    step: int,
    network: nn.Module,
    loss: UnitLoss,
    batch: int,
) -> Sequence[Tensor]:
    """The curator's noisy sum of a step over the expected ``batch``, by trained parameter."""
    total = curator.gradient(name, step, network, loss)
    return unflatten(total / batch, trained(network))


def linear_warm_up(steps: int) -> Callable[[int], float]:
    """The factor of a learning rate that grows linearly over the first ``steps``."""
    return lambda step: min(1.0, (step + 1) / steps)
