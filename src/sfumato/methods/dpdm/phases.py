"""Training in phases over one network: each resumable, each with its own optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sfumato.methods.checkpoint import Training
from sfumato.methods.dpdm.diffusion import DenoisingLoss, device_of
from sfumato.networks import Average, UNet

WARM_UP = 20
PLAIN_BATCH = 64
HASTE = 3.0
"""Private steps are few and noisy: the average of the last half is wanted, not of a few."""


class Phases:
    """The phases of one training run.

    Args:
        network: what is trained; each phase leaves it as its running average.
        loss: the denoising loss.
        average: decay of the running average.
        seed: public seed of training on public images.
        folder: where checkpoints are kept.
        quiet: show no progress.
    """

    def __init__(
        self,
        network: UNet,
        loss: DenoisingLoss,
        average: float,
        seed: int,
        folder: Path,
        quiet: bool,
    ) -> None:
        self.network, self.loss, self.average, self.seed = network, loss, average, seed
        self.folder, self.quiet = folder, quiet

    def plainly(
        self,
        what: str,
        steps: int,
        rate: float,
        draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    ) -> None:
        """Train without privacy on images that are public already; labels below 0 are none."""
        loss = replace(self.loss, multiplicity=1)
        device = device_of(self.network)
        generator = torch.Generator().manual_seed(self.seed)

        def step(_: int) -> None:
            images, labels = draw(PLAIN_BATCH, generator)
            known = torch.where(labels < 0, self.network.no_label, labels).to(device)
            # From the generator that checkpoints hold: a killed phase goes on with the same draws.
            draws = (part.to(device) for part in loss.draws(len(images), generator))
            loss(self.network, images.to(device), known, *draws).mean().backward()

        self.run(what, steps, rate, step, None, generator)

    def run(
        self,
        what: str,
        steps: int,
        rate: float,
        advance: Callable[[int], None],
        saved: Callable[[int], None] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Let ``advance`` fill the gradients ``steps`` times; the network ends as its average."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=rate)
        average = Average(self.network, self.average, HASTE)
        networks = {"network": self.network, "average": average.network}
        training = Training(networks, optimizer, generator or torch.Generator(), {})

        def whole(step: int) -> None:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
            optimizer.zero_grad(set_to_none=True)
            advance(step)
            optimizer.step()
            average.update(self.network, step)

        training.run(what, steps, whole, self.folder, self.quiet, saved)
        self.network.load_state_dict(average.network.state_dict())
