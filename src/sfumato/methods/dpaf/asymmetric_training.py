"""A generator against a discriminator that is cut in two: training that sees class means only.

The upper layers and the generator are trained as often as one likes on what was released; the lower
layers only where a release comes with a gradient (asymmetric training, arXiv 2304.12185).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.methods.checkpoint import Training
from sfumato.methods.dpaf.class_means import ClassMaps, Releases
from sfumato.networks import Average, Generator
from sfumato.networks.aggregating import Lower, Upper

BETAS = (0.5, 0.999)

Loss = Literal["hinge", "non-saturating"]


def judged(loss: Loss, real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's loss for logits of real and generated means."""
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + generated).mean()
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def fooled(loss: Loss, generated: Tensor) -> Tensor:
    """The generator's loss for logits of generated means."""
    return -generated.mean() if loss == "hinge" else F.softplus(-generated).mean()


@dataclass(frozen=True)
class Play:
    """How the game is played.

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


class Contest:
    """Three networks in play; each phase goes on where it was stopped.

    Args:
        lower, upper, generator: what is trained.
        maps: features of an image.
        play: how.
        seed: public seed of the generated images and of their noise.
        folder: where checkpoints are kept.
        quiet: show no progress.
    """

    def __init__(
        self,
        lower: Lower,
        upper: Upper,
        generator: Generator,
        maps: ClassMaps,
        play: Play,
        seed: int,
        folder: Path,
        quiet: bool,
    ) -> None:
        self.lower, self.upper, self.generator = lower, upper, generator
        self.maps, self.play, self.seed = maps, play, seed
        self.folder, self.quiet = folder, quiet
        self.dimension = lower.maps * lower.side**2
        self.classes = torch.arange(generator.classes, device=lower.device)
        # Coordinates of a mean are brought to the size of one before they are judged.
        self.scale = self.dimension**0.5 / maps.reach

    def run(
        self,
        what: str,
        steps: int,
        releases: Releases,
        tally: Tensor,
        saved: Callable[[int], None] | None = None,
    ) -> Generator:
        """Play for ``steps`` releases; returns the averaged generator.

        Args:
            what: names the phase, on the screen and in its checkpoint.
            steps: number of releases.
            releases: where real means come from.
            tally: what ``releases`` changes and a checkpoint must hold.
            saved: told after how many releases a checkpoint was written.
        """
        play, shape = self.play, (self.play.memory, len(self.classes), self.dimension)
        random = torch.Generator().manual_seed(self.seed)
        groups = [
            {"params": list(self.generator.parameters()), "lr": play.generator_rate},
            {"params": list(self.upper.parameters()), "lr": play.upper_rate},
            {"params": list(self.lower.parameters()), "lr": play.lower_rate},
        ]
        optimizer = torch.optim.Adam([g for g in groups if g["params"]], betas=BETAS)
        average = Average(self.generator, play.average)
        networks = {
            "generator": self.generator,
            "upper": self.upper,
            "lower": self.lower,
            "average": average.network,
        }
        memory, deviations = torch.zeros(shape), torch.zeros(shape[:2])
        tensors = {"memory": memory, "deviations": deviations, "tally": tally}
        training = Training(networks, optimizer, random, tensors)

        def advance(step: int) -> None:
            place = step % play.memory
            mean, noise = releases.means(step, random)
            memory[place], deviations[place] = mean.cpu(), noise.cpu()
            kept = min(step + 1, play.memory)
            target = memory[:kept].mean(dim=0).to(mean.device)
            for turn in range(play.generator_steps):
                chosen = place if turn == 0 else int(torch.randint(kept, (), generator=random))
                self._upper_step(optimizer, memory[chosen], deviations[chosen], random)
                self._generator_step(optimizer, target, noise, random)
                average.update(self.generator, step * play.generator_steps + turn)
            if play.every and (step + 1) % play.every == 0:
                self._lower_step(optimizer, step, mean, noise, releases, random)

        training.run(what, steps, advance, self.folder, self.quiet, saved)
        return average.network

    def _generated(self, random: torch.Generator, learns: bool = False) -> Tensor:
        """Class means of generated images, ``[rows, d]``; whether the generator ``learns``."""
        labels = self.classes.repeat_interleave(self.play.generated)
        z = torch.randn(len(labels), self.generator.latent, generator=random)
        with torch.set_grad_enabled(learns):
            images = self.generator(z.to(labels.device), labels)
        return self.maps.maps(self.lower, images).unflatten(0, (-1, self.play.generated)).mean(1)

    def _logits(self, means: Tensor) -> Tensor:
        logits: Tensor = self.upper(means * self.scale, self.classes)
        return logits

    def _noisy(self, means: Tensor, noise: Tensor, random: torch.Generator) -> Tensor:
        """Generated means with the noise that the real ones have; it is public."""
        drawn = torch.randn(means.shape, generator=random).to(means.device)
        return means + drawn * noise.to(means.device)[:, None]

    def _upper_step(
        self, optimizer: torch.optim.Optimizer, real: Tensor, noise: Tensor, random: torch.Generator
    ) -> None:
        with torch.no_grad():
            generated = self._noisy(self._generated(random), noise, random)
        logits = self._logits(real.to(generated.device)), self._logits(generated)
        optimizer.zero_grad(set_to_none=True)
        judged(self.play.loss, *logits).backward()
        optimizer.step()

    def _generator_step(
        self,
        optimizer: torch.optim.Optimizer,
        target: Tensor,
        noise: Tensor,
        random: torch.Generator,
    ) -> None:
        generated = self._generated(random, learns=True)
        loss = fooled(self.play.loss, self._logits(self._noisy(generated, noise, random)))
        if self.play.matching:
            distance = ((generated - target) * self.scale).square().mean(dim=1).sum()
            loss = loss + self.play.matching * distance
        optimizer.zero_grad(set_to_none=True)
        parameters = list(self.generator.parameters())
        for parameter, value in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = value
        optimizer.step()

    def _lower_step(
        self,
        optimizer: torch.optim.Optimizer,
        step: int,
        mean: Tensor,
        noise: Tensor,
        releases: Releases,
        random: torch.Generator,
    ) -> None:
        """The gradient at the noisy mean is public; below it, the curator pulls it back."""
        real = mean.detach().requires_grad_()
        generated = self._noisy(self._generated(random), noise, random)
        parameters = list(self.lower.parameters())
        loss = judged(self.play.loss, self._logits(real), self._logits(generated))
        cotangent, *below = torch.autograd.grad(loss, [real, *parameters])
        optimizer.zero_grad(set_to_none=True)
        pulled = releases.pull_back(step, cotangent)
        for parameter, value, more in zip(parameters, pulled, below, strict=True):
            parameter.grad = value + more
        optimizer.step()
