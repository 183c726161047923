"""A generator against a discriminator: the loss of a unit, and the training of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.devices import bfloat16_where, random_on
from sfumato.methods.training import Session, Training
from sfumato.networks import Average, Discriminator, Generator, to_pixels

GENERATED = 64
"""Generated images of a step of the generator, and of the penalty."""

BETAS = (0.5, 0.999)
LEAST_DISTANCE = 1e-3


@dataclass(frozen=True)
class PairLoss:
    """A unit's loss: how badly D distinguishes its image from one of G for the same class.

    ℓ(x, y, z) = s(−D(x, y)) + s(D(G(z, y), y)) with the softplus s: the logistic loss of
    arXiv 1406.2661, equation 1, for one image of each kind. Both halves lie inside the clip, so
    that what their gradients have in common cancels before the norm is bounded; see
    ``docs/methods/dpgan.md``.
    """

    generator: Generator
    bfloat16: bool

    @property
    def multiplicity(self) -> int:
        """Images a unit brings into a layer's batch: its own and the generated one."""
        return 2

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """z ``[u, latent]``."""
        shape = (units, self.generator.latent)
        return (torch.randn(shape, generator=generator, device=generator.device),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``; ``network`` is the discriminator."""
        (z,) = draws
        with bfloat16_where(self.bfloat16, images.device):
            with torch.no_grad():
                generated = self.generator(z, labels).to(torch.float32)
            pairs = torch.stack([to_pixels(images), generated], dim=1).flatten(0, 1)
            pairs = pairs.contiguous(memory_format=torch.channels_last)
            logits = network(pairs, labels[:, None].expand(-1, 2).flatten())
        real, fake = logits.to(torch.float32).view(-1, 2).unbind(dim=1)
        return F.softplus(-real) + F.softplus(fake)


@dataclass(frozen=True)
class Rates:
    """How fast the two learn."""

    discriminator: float
    generator: float
    critic_steps: int
    """Discriminator steps for each generator step."""
    average: float
    """Decay of the generator's running average."""
    diversity: float
    """Weight of the term that keeps two images of one class apart."""
    penalty: float
    """Weight of the discriminator's squared slope at generated images."""


class AdversarialTraining:
    """The training of both networks; the generator's steps cost no privacy.

    Args:
        session: where it runs; both networks are on its device.
        loss: of a pair; it holds the generator.
        discriminator: judges; the private gradients are taken at its parameters.
        rates: how fast the two learn.
        seed: public seed of generated images.
    """

    def __init__(
        self,
        session: Session,
        loss: PairLoss,
        discriminator: Discriminator,
        rates: Rates,
        seed: int,
    ) -> None:
        self.loss, self.generator, self.discriminator = loss, loss.generator, discriminator
        self.rates, self.ours = rates, list(discriminator.parameters())
        self.theirs = list(self.generator.parameters())
        # One optimiser for both: it leaves alone whoever has no gradient.
        groups = [
            {"params": self.ours, "lr": rates.discriminator},
            {"params": self.theirs, "lr": rates.generator},
        ]
        self.average = Average(self.generator, rates.average)
        self.random = random_on(session.device, seed)
        self.training = Training(
            session,
            {"discriminator": discriminator, "generator": self.generator},
            torch.optim.Adam(groups, betas=BETAS),
            self.random,
            self.average,
        )

    def run(
        self,
        steps: int,
        gradient: Callable[[int], Sequence[Tensor]],
        saved: Callable[[int], None] | None = None,
    ) -> Generator:
        """Take ``steps`` discriminator steps along ``gradient``; returns the averaged generator.

        Args:
            gradient: the discriminator's gradient at a step, by parameter.
            saved: told after how many steps a checkpoint was written.
        """
        rates = self.rates

        def advance(step: int) -> None:
            values = gradient(step)
            if rates.penalty:
                flat = self.penalty_gradient()
                values = [value + more for value, more in zip(values, flat, strict=True)]
            self.training.along(self.ours, values)
            turn, last = divmod(step + 1, rates.critic_steps)
            if last == 0:
                self.training.along(self.theirs, self.generator_gradient())
                self.average.update(self.generator, turn - 1)

        self.training.run("training", steps, advance, saved)
        return self.average.network.eval()

    def _classes(self, count: int) -> Tensor:
        """Classes drawn evenly, int64 ``[count]``."""
        device = self.random.device
        return torch.randint(self.generator.classes, (count,), generator=self.random, device=device)

    def penalty_gradient(self) -> Sequence[Tensor]:
        """∇ of w·E|∇ₓ D(G(z, y), y)|² (R₂ of arXiv 1801.04406), whose images are public."""
        labels = self._classes(GENERATED)
        (z,) = self.loss.draws(GENERATED, self.random)
        with torch.no_grad():
            images = self.generator(z, labels)
        images.requires_grad_()
        logits = self.discriminator(images, labels)
        (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = self.rates.penalty * slopes.square().flatten(1).sum(dim=1).mean()
        return torch.autograd.grad(loss, self.ours, materialize_grads=True)

    def generator_gradient(self) -> Sequence[Tensor]:
        """∇ of the non-saturating loss s(−D(G(z, y), y)), and of what keeps modes apart.

        Each class that is drawn gets two images; −w log |G(z, y) − G(z′, y)| rewards their mean
        distance (mode seeking, arXiv 1903.05628, as a logarithm so that it fades where there is
        variety).
        """
        labels = self._classes(GENERATED // 2).repeat(2)
        (z,) = self.loss.draws(GENERATED, self.random)
        with bfloat16_where(self.loss.bfloat16, labels.device):
            images = self.generator(z, labels).contiguous(memory_format=torch.channels_last)
            logits = self.discriminator(images, labels)
        loss = F.softplus(-logits.to(torch.float32)).mean()
        one, other = images.to(torch.float32).chunk(2)
        apart = (one - other).abs().mean(dim=(1, 2, 3))
        loss = loss - self.rates.diversity * (apart + LEAST_DISTANCE).log().mean()
        return torch.autograd.grad(loss, self.theirs)
