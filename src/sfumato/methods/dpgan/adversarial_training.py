"""A generator and a discriminator in play: the loss of a unit, and training that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.methods.checkpoint import Training
from sfumato.methods.dpdm.diffusion import device_of, to_pixels
from sfumato.networks import Average, Discriminator, Generator

PLAIN_BATCH = 64
BETAS = (0.5, 0.999)
LEAST_DISTANCE = 1e-3


@dataclass(frozen=True)
class PairLoss:
    """A unit's loss: how badly D tells its image from one that G makes for the same class.

    ℓ(x, y, z) = s(−D(x, y)) + s(D(G(z, y), y)) with the softplus s: the logistic loss of
    arXiv 1406.2661, equation 1, for one image of each kind. Both halves lie inside the clip, so
    that what their gradients have in common cancels before the norm is bounded; see "DP-GAN" in
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
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
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


class Game:
    """The two networks, trained in phases that each go on where they were stopped.

    Args:
        loss: of a pair; it holds the generator.
        discriminator: judges; a phase's gradients are taken at its parameters.
        rates: how fast the two learn.
        seed: public seed of the generator's steps and of the plain phase.
        folder: where checkpoints are kept.
        quiet: show no progress.
    """

    def __init__(
        self,
        loss: PairLoss,
        discriminator: Discriminator,
        rates: Rates,
        seed: int,
        folder: Path,
        quiet: bool,
    ) -> None:
        self.loss, self.generator, self.discriminator = loss, loss.generator, discriminator
        self.rates, self.seed, self.folder, self.quiet = rates, seed, folder, quiet

    def plainly(
        self,
        what: str,
        steps: int,
        draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    ) -> Generator:
        """Play without privacy on images that are public already; as :meth:`play`."""
        device = device_of(self.discriminator)
        parameters = list(self.discriminator.parameters())

        def gradient(_: int, generator: torch.Generator) -> Sequence[Tensor]:
            images, labels = draw(PLAIN_BATCH, generator)
            draws = (part.to(device) for part in self.loss.draws(len(images), generator))
            losses = self.loss(self.discriminator, images.to(device), labels.to(device), *draws)
            return torch.autograd.grad(losses.mean(), parameters)

        return self.play(what, steps, gradient)

    def play(
        self,
        what: str,
        steps: int,
        gradient: Callable[[int, torch.Generator], Sequence[Tensor]],
        saved: Callable[[int], None] | None = None,
    ) -> Generator:
        """Take ``steps`` discriminator steps along ``gradient``; returns the averaged generator.

        Args:
            gradient: the discriminator's gradient at a step, by parameter; public draws come from
                the generator that checkpoints hold.
            saved: told after how many steps a checkpoint was written.
        """
        rates, generator = self.rates, torch.Generator().manual_seed(self.seed)
        ours, theirs = list(self.discriminator.parameters()), list(self.generator.parameters())
        # One optimiser for both: it leaves alone whoever has no gradient.
        groups = [
            {"params": ours, "lr": rates.discriminator},
            {"params": theirs, "lr": rates.generator},
        ]
        optimizer = torch.optim.Adam(groups, betas=BETAS)
        average = Average(self.generator, rates.average)
        networks = {
            "discriminator": self.discriminator,
            "generator": self.generator,
            "average": average.network,
        }
        training = Training(networks, optimizer, generator, {})

        def advance(step: int) -> None:
            values = gradient(step, generator)
            if rates.penalty:
                flat = self._penalty_gradient(generator)
                values = [value + more for value, more in zip(values, flat, strict=True)]
            _advance(optimizer, ours, values)
            turn, last = divmod(step + 1, rates.critic_steps)
            if last == 0:
                _advance(optimizer, theirs, self._generator_gradient(generator))
                average.update(self.generator, turn - 1)

        training.run(what, steps, advance, self.folder, self.quiet, saved)
        return average.network

    def _penalty_gradient(self, generator: torch.Generator) -> Sequence[Tensor]:
        """∇ of w·E|∇ₓ D(G(z, y), y)|² (R₂ of arXiv 1801.04406), whose images are public."""
        device = device_of(self.generator)
        labels = torch.randint(self.generator.classes, (PLAIN_BATCH,), generator=generator)
        (z,) = (part.to(device) for part in self.loss.draws(PLAIN_BATCH, generator))
        with torch.no_grad():
            images = self.generator(z, labels.to(device))
        images.requires_grad_()
        logits = self.discriminator(images, labels.to(device))
        (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        loss = self.rates.penalty * slopes.square().flatten(1).sum(dim=1).mean()
        parameters = list(self.discriminator.parameters())
        return torch.autograd.grad(loss, parameters, materialize_grads=True)

    def _generator_gradient(self, generator: torch.Generator) -> Sequence[Tensor]:
        """∇ of the non-saturating loss s(−D(G(z, y), y)), and of what keeps modes apart.

        Classes are drawn evenly, each for two images; −w log |G(z, y) − G(z′, y)| rewards their
        mean distance (mode seeking, arXiv 1903.05628, as a logarithm so that it fades where there
        is variety).
        """
        device = device_of(self.generator)
        classes = torch.randint(self.generator.classes, (PLAIN_BATCH // 2,), generator=generator)
        labels = classes.repeat(2).to(device)
        (z,) = (part.to(device) for part in self.loss.draws(PLAIN_BATCH, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.loss.bfloat16):
            images = self.generator(z, labels).contiguous(memory_format=torch.channels_last)
            logits = self.discriminator(images, labels)
        loss = F.softplus(-logits.to(torch.float32)).mean()
        one, other = images.to(torch.float32).chunk(2)
        apart = (one - other).abs().mean(dim=(1, 2, 3))
        loss = loss - self.rates.diversity * (apart + LEAST_DISTANCE).log().mean()
        return torch.autograd.grad(loss, list(self.generator.parameters()))


def _advance(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], values: Sequence[Tensor]
) -> None:
    """One step of ``parameters`` along their gradient."""
    optimizer.zero_grad(set_to_none=True)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    optimizer.step()
