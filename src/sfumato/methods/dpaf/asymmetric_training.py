"""A generator against a discriminator that is cut in two: training that sees class means only.

The upper layers and the generator are trained as often as one likes on what was released; the lower
layers only where a release comes with a gradient (asymmetric training, arXiv 2304.12185).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.devices import random_on
from sfumato.methods.dpaf.class_means import ClassMaps, ClassMeans
from sfumato.methods.dpaf.settings import Loss
from sfumato.methods.training import Session, Training
from sfumato.networks import Average, Generator
from sfumato.networks.aggregating import Lower, Upper

BETAS = (0.5, 0.999)


def discriminator_loss(loss: Loss, real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's loss for logits of real and generated means."""
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + generated).mean()
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def generator_loss(loss: Loss, generated: Tensor) -> Tensor:
    """The generator's loss for logits of generated means."""
    return -generated.mean() if loss == "hinge" else F.softplus(-generated).mean()


@dataclass(frozen=True)
class AsymmetricSettings:
    """How the three networks are trained.

    Args:
        loss: ``hinge`` or ``non-saturating``.
        matching: weight of the squared distance between the generated means and the average of the
            remembered ones, beside the adversarial loss.
        generator_steps: steps of generator and upper layers for each release.
        generated: images of each class in a generated mean.
        memory: how many releases are remembered.
        every: μ; the lower layers take a step at each μ-th release, never for 0.
        generator_rate, upper_rate, lower_rate: of Adam.
        average: decay of the generator's running average.
    """

    loss: Loss
    matching: float
    generator_steps: int
    generated: int
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
    """

    def __init__(
        self,
        session: Session,
        lower: Lower,
        upper: Upper,
        generator: Generator,
        maps: ClassMaps,
        settings: AsymmetricSettings,
        seed: int,
    ) -> None:
        self.session, self.lower, self.upper, self.generator = session, lower, upper, generator
        self.maps, self.settings = maps, settings
        self.random = random_on(session.device, seed)
        self.dimension = lower.maps * lower.side**2
        self.classes = torch.arange(generator.classes, device=session.device)
        # Coordinates of a mean are brought to the size of one before they are judged.
        self.scale = self.dimension**0.5 / maps.reach
        groups = [
            {"params": list(network.parameters()), "lr": rate}
            for network, rate in (
                (generator, settings.generator_rate),
                (upper, settings.upper_rate),
                (lower, settings.lower_rate),
            )
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=BETAS)
        self.average = Average(generator, settings.average)

    def run(
        self,
        steps: int,
        real: ClassMeans,
        tally: Tensor,
        saved: Callable[[int], None] | None = None,
    ) -> Generator:
        """Train on ``steps`` releases; returns the averaged generator.

        Args:
            steps: number of releases.
            real: where class means of real images come from.
            tally: what ``real`` changes and a checkpoint must hold.
            saved: told after how many releases a checkpoint was written.
        """
        settings, random = self.settings, self.random
        shape = (settings.memory, len(self.classes), self.dimension)
        memory = torch.zeros(shape, device=random.device)
        deviations = torch.zeros(shape[:2], device=random.device)
        training = Training(
            self.session,
            {"generator": self.generator, "upper": self.upper, "lower": self.lower},
            self.optimizer,
            random,
            self.average,
            {"memory": memory, "deviations": deviations, "tally": tally},
        )
        below = list(self.lower.parameters())

        def advance(step: int) -> None:
            newest = step % settings.memory
            memory[newest], deviations[newest] = mean, noise = real.means(step)
            kept = min(step + 1, settings.memory)
            target = memory[:kept].mean(dim=0)
            for turn in range(settings.generator_steps):
                place = newest if turn == 0 else int(self._random_index(kept))
                self._upper_step(training, memory[place], deviations[place])
                self._generator_step(training, target, noise)
                self.average.update(self.generator, step * settings.generator_steps + turn)
            if settings.every and (step + 1) % settings.every == 0:
                cotangent, generated = self._lower_gradients(mean, noise)
                pulled = real.pull_back(step, cotangent)
                training.along(below, [a + b for a, b in zip(pulled, generated, strict=True)])

        training.run("training", steps, advance, saved)
        return self.average.network.eval()

    def _random_index(self, below: int) -> Tensor:
        return torch.randint(below, (), generator=self.random, device=self.random.device)

    def _generated(self, learns: bool = False) -> Tensor:
        """Class means of generated images, ``[rows, d]``; whether the generator ``learns``."""
        each, random = self.settings.generated, self.random
        labels = self.classes.repeat_interleave(each)
        shape = (len(labels), self.generator.latent)
        z = torch.randn(shape, generator=random, device=random.device)
        with torch.set_grad_enabled(learns):
            images = self.generator(z, labels)
        return self.maps.maps(self.lower, images).unflatten(0, (-1, each)).mean(1)

    def _logits(self, means: Tensor) -> Tensor:
        logits: Tensor = self.upper(means * self.scale, self.classes)
        return logits

    def _noisy(self, means: Tensor, noise: Tensor) -> Tensor:
        """Generated means with as much noise as the real ones have; that much is public."""
        random = self.random
        normal = torch.randn(means.shape, generator=random, device=random.device)
        return means + normal * noise[:, None]

    def _upper_step(self, training: Training, real: Tensor, noise: Tensor) -> None:
        with torch.no_grad():
            generated = self._noisy(self._generated(), noise)
        loss = discriminator_loss(self.settings.loss, self._logits(real), self._logits(generated))
        parameters = list(self.upper.parameters())
        training.along(parameters, torch.autograd.grad(loss, parameters))

    def _generator_step(self, training: Training, target: Tensor, noise: Tensor) -> None:
        generated = self._generated(learns=True)
        logits = self._logits(self._noisy(generated, noise))
        loss = generator_loss(self.settings.loss, logits)
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
        generated = self._noisy(self._generated(), noise)
        loss = discriminator_loss(self.settings.loss, self._logits(real), self._logits(generated))
        cotangent, *below = torch.autograd.grad(loss, [real, *self.lower.parameters()])
        return cotangent, below
