"""DPDM's phases of training: each over the same network, with an optimiser and an average anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.devices import random_on, trains_in_bfloat16
from sfumato.methods.dpdm.diffusion import DenoisingLoss
from sfumato.methods.training import Session, Training, linear_warm_up
from sfumato.networks import Average, UNet
from sfumato.privacy.gradients.per_example import trained

WARM_UP = 20
"""Steps over which a phase's learning rate grows to its full size."""

PUBLIC_BATCH = 64
AVERAGE_OFFSET = 3.0
"""Private steps are few and noisy: the average of the last half is wanted, not of a few."""


@dataclass(frozen=True)
class Phases:
    """The phases of one training run.

    Args:
        session: where they run; the network is on its device.
        network: what is trained; each phase leaves it as its running average.
        loss: the denoising loss.
        average: decay of the running average.
        seed: public seed of training on public images.
    """

    session: Session
    network: UNet
    loss: DenoisingLoss
    average: float
    seed: int

    def on_public_images(
        self,
        what: str,
        steps: int,
        rate: float,
        draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    ) -> None:
        """Train on images that are public already, without noise; labels below 0 are none."""
        fast = trains_in_bfloat16(self.session.device)
        denoiser = replace(self.loss.denoiser, bfloat16=fast)
        loss = replace(self.loss, denoiser=denoiser, multiplicity=1)
        random = random_on(self.session.device, self.seed)
        parameters = list(self.network.parameters())

        def gradient(_: int) -> Sequence[Tensor]:
            images, labels = draw(PUBLIC_BATCH, random)
            known = torch.where(labels < 0, self.network.no_label, labels)
            draws = loss.draws(len(images), random)
            return torch.autograd.grad(loss(self.network, images, known, *draws).mean(), parameters)

        self.run(what, steps, rate, gradient, random)

    def run(
        self,
        what: str,
        steps: int,
        rate: float,
        gradient: Callable[[int], Sequence[Tensor]],
        random: torch.Generator | None = None,
        saved: Callable[[int], None] | None = None,
    ) -> None:
        """Take ``steps`` along ``gradient``, for trained parameters, and leave the average."""
        parameters = trained(self.network)
        average = Average(self.network, self.average, AVERAGE_OFFSET)
        training = Training(
            self.session,
            {"network": self.network},
            torch.optim.Adam(parameters, rate),
            random or random_on(self.session.device, self.seed),
            average,
            rate=linear_warm_up(WARM_UP),
        )

        def advance(step: int) -> None:
            training.along(parameters, gradient(step))
            average.update(self.network, step)

        training.run(what, steps, advance, saved)
        self.network.load_state_dict(average.network.state_dict())
