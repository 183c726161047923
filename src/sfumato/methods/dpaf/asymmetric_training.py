"""A generator against a discriminator that is cut in two: training that sees class means only.

The upper layers and the generator are trained as often as one likes on what was released; the lower
layers only where a release comes with a gradient (asymmetric training, arXiv 2304.12185).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.devices import random_on
from sfumato.methods.dpaf.class_means import ClassMeans, Maps
from sfumato.methods.dpaf.settings import Loss
from sfumato.methods.mean_matching import follow
from sfumato.methods.mepf.generator import StartedGenerator
from sfumato.methods.mepf.matching import CHANGE_PENALTY
from sfumato.methods.training import Session, Training
from sfumato.networks import Average, Generator
from sfumato.networks.aggregating import Upper

BETAS = (0.5, 0.999)


def discriminator_loss(loss: Loss, real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's loss for logits of real and generated means."""
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + generated).mean()
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def generator_loss(loss: Loss, generated: Tensor) -> Tensor:
    """The generator's loss for logits of generated means."""
    return -generated.mean() if loss == "hinge" else F.softplus(-generated).mean()


def made_by(
    generator: Generator | StartedGenerator, labels: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] of these classes, and what their making adds to the generator's loss."""
    if isinstance(generator, StartedGenerator):
        images, change = generator(labels, random)
        return images * 2 - 1, CHANGE_PENALTY * change.square().mean()
    z = torch.randn((len(labels), generator.latent), generator=random, device=random.device)
    return generator(z, labels), z.new_zeros(())


@dataclass(frozen=True)
class AsymmetricSettings:
    """How the three networks are trained.

    Args:
        loss: ``hinge`` or ``non-saturating``.
        matching: weight of the squared distance between the generated means and the average of the
            remembered ones, beside the adversarial loss.
        generator_steps: steps of generator and upper layers for each release.
        generated: images of each class in a generated mean.
        moving_average: decay of the running means of generated images, which stand for the means
            of a batch; 0 judges each batch by itself.
        memory: how many releases are remembered.
        every: μ; the lower layers take a step at each μ-th release, never for 0.
        generator_rate, upper_rate, lower_rate: of Adam.
        average: decay of the generator's running average.
    """

    loss: Loss
    matching: float
    generator_steps: int
    generated: int
    moving_average: float
    memory: int
    every: int
    generator_rate: float
    upper_rate: float
    lower_rate: float
    average: float


class AsymmetricTraining:
    """The training of the three networks.

    Args:
        session: where it runs; the networks are on its device.
        lower, upper, generator: what is trained.
        maps: features of an image.
        settings: how.
        seed: public seed of the generated images and of their noise.
        rate: factor of the learning rates at a turn of generator and upper layers.
    """

    def __init__(
        self,
        session: Session,
        lower: nn.Module,
        upper: Upper,
        generator: Generator | StartedGenerator,
        maps: Maps,
        settings: AsymmetricSettings,
        seed: int,
        rate: Callable[[int], float] = lambda turn: 1.0,
    ) -> None:
        self.session, self.lower, self.upper, self.generator = session, lower, upper, generator
        self.maps, self.settings, self.rate = maps, settings, rate
        self.random = random_on(session.device, seed)
        self.dimension = sum(map(prod, upper.shapes))
        self.classes = torch.arange(upper.label.num_embeddings, device=session.device)
        self.running = torch.zeros((len(self.classes), self.dimension), device=session.device)
        # Coordinates of a mean are brought to the size of one before they are judged.
        self.scale = self.dimension**0.5 / maps.reach
        groups = [
            {"params": list(network.parameters()), "lr": each}
            for network, each in (
                (generator, settings.generator_rate),
                (upper, settings.upper_rate),
                (lower, settings.lower_rate),
            )
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=BETAS)
        self.average: Average[Any] = Average(generator, settings.average)

    def run(
        self,
        steps: int,
        real: ClassMeans,
        state: Mapping[str, Tensor],
        saved: Callable[[int], None] | None = None,
    ) -> Any:
        """Train on ``steps`` releases; returns the averaged generator.

        Args:
            steps: number of releases.
            real: where class means of real images come from.
            state: what ``real`` changes and a checkpoint must hold.
            saved: told which releases a checkpoint needs no more: so many are done with.
        """
        settings, random, turns = self.settings, self.random, self.settings.generator_steps
        shape = (min(settings.memory, steps), len(self.classes), self.dimension)
        memory = torch.zeros(shape, device=random.device)
        deviations = torch.zeros(shape[:2], device=random.device)
        below = list(self.lower.parameters())
        networks: dict[str, nn.Module] = {"generator": self.generator, "upper": self.upper}
        if below:
            networks["lower"] = self.lower
        training = Training(
            self.session,
            networks,
            self.optimizer,
            random,
            self.average,
            {"memory": memory, "deviations": deviations, "running": self.running, **state},
            self.rate,
        )

        def advance(number: int) -> None:
            step, turn = divmod(number, turns)
            newest, kept = step % len(memory), min(step + 1, len(memory))
            if turn == 0:
                memory[newest], deviations[newest] = real.means(step)
            place = newest if turn == 0 else int(self._random_index(kept))
            target, noise = memory[:kept].mean(dim=0), deviations[newest]
            self._turn(training, number, (memory[place], deviations[place]), (target, noise))
            self.average.update(self.generator, number)
            if turn == turns - 1 and settings.every and (step + 1) % settings.every == 0:
                cotangent, generated = self._lower_gradients(memory[newest], noise)
                pulled = real.pull_back(step, cotangent)
                training.along(below, [a + b for a, b in zip(pulled, generated, strict=True)])

        def done(number: int) -> None:
            if saved is not None:
                saved(number // turns)

        training.run("training", steps * turns, advance, done)
        return self.average.network.eval()

    def _random_index(self, below: int) -> Tensor:
        return torch.randint(below, (), generator=self.random, device=self.random.device)

    def _turn(
        self,
        training: Training,
        number: int,
        real: tuple[Tensor, Tensor],
        wanted: tuple[Tensor, Tensor],
    ) -> None:
        """A step of the upper layers against ``real`` means, then one of the generator.

        Both are means and the deviation of their noise.
        """
        if not self.settings.moving_average:
            with torch.no_grad():
                generated, _ = self._generated()
            self._upper_step(training, *real, generated)
            self._generator_step(training, *wanted, *self._generated(learns=True))
            return
        mean, penalty = self._generated(learns=True)
        follow(self.running, mean, self.settings.moving_average, number)
        self._upper_step(training, *real, self.running)
        # The running means in value, the batch's in gradient: few images are judged as if many.
        self._generator_step(training, *wanted, self.running + mean - mean.detach(), penalty)

    def _generated(self, learns: bool = False) -> tuple[Tensor, Tensor]:
        """Class means of generated images, ``[rows, d]``, and what their making adds to the loss.

        learns: whether the generator does.
        """
        each = self.settings.generated
        labels = self.classes.repeat_interleave(each)
        with torch.set_grad_enabled(learns):
            images, penalty = made_by(self.generator, labels, self.random)
        return self.maps.maps(self.lower, images).unflatten(0, (-1, each)).mean(1), penalty

    def _logits(self, means: Tensor) -> Tensor:
        logits: Tensor = self.upper(means * self.scale, self.classes)
        return logits

    def _noisy(self, means: Tensor, noise: Tensor) -> Tensor:
        """Generated means with as much noise as the real ones have; that much is public."""
        random = self.random
        normal = torch.randn(means.shape, generator=random, device=random.device)
        return means + normal * noise[:, None]

    def _upper_step(
        self, training: Training, real: Tensor, noise: Tensor, generated: Tensor
    ) -> None:
        generated = self._noisy(generated.detach(), noise)
        loss = discriminator_loss(self.settings.loss, self._logits(real), self._logits(generated))
        parameters = list(self.upper.parameters())
        training.along(parameters, torch.autograd.grad(loss, parameters))

    def _generator_step(
        self, training: Training, target: Tensor, noise: Tensor, generated: Tensor, penalty: Tensor
    ) -> None:
        logits = self._logits(self._noisy(generated, noise))
        loss = generator_loss(self.settings.loss, logits) + penalty
        if self.settings.matching:
            distance = ((generated - target) * self.scale).square().mean(dim=1).sum()
            loss = loss + self.settings.matching * distance
        parameters = list(self.generator.parameters())
        training.along(parameters, torch.autograd.grad(loss, parameters))

    def _lower_gradients(self, mean: Tensor, noise: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss's gradient at the noisy mean, and through generated images, by parameter.

        Both are public; the first is what the curator pulls back through the real images.
        """
        real = mean.detach().requires_grad_()
        generated = self._noisy(self._generated()[0], noise)
        loss = discriminator_loss(self.settings.loss, self._logits(real), self._logits(generated))
        cotangent, *below = torch.autograd.grad(loss, [real, *self.lower.parameters()])
        return cotangent, below
