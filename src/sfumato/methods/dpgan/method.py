"""DP-GAN: a generative adversarial network whose discriminator is trained by DP-SGD.

Xie, Lin, Wang, Wang, Zhou, arXiv 1802.06739, with the many discriminator steps for each generator
step of Bie, Kamath, Zhang, arXiv 2302.02936. The generator sees private images only through the
discriminator, whose every step asks for one noisy sum of clipped gradients. Before that both may be
warmed up on images drawn from one noisy ``sum``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import (
    Batch,
    Method,
    Model,
    Settings,
    check_rules,
    labels_in_proportion,
    poisson_rate,
)
from sfumato.methods.dpdm.diffusion import device_of, to_bytes
from sfumato.methods.dpgan.adversarial_training import Game, PairLoss, Rates
from sfumato.methods.estimate import seconds_of
from sfumato.methods.saved_arrays import check_tensors, checked_counts
from sfumato.methods.warmup import WarmUp, warm_images
from sfumato.networks import Discriminator, Generator, fast_bfloat16, preferred_device
from sfumato.privacy import Curator, GradientQuery, Query, SumQuery
from sfumato.privacy.gradients.layers import unflatten

SAMPLE_BATCH = 250
PROBE = 64


@dataclass(frozen=True)
class GANModel(Model):
    """A trained generator, its width, and noisy class sizes (or ones)."""

    spec: PublicSpec
    generator: Generator
    width: int
    counts: NDArray[np.float64]

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Draw ``count`` images in batches, classes in proportion to their noisy sizes."""
        drawn = labels_in_proportion(self.counts, count, np.random.default_rng(seed))
        device = device_of(self.generator)
        noise = torch.Generator(device).manual_seed(seed)
        for start in range(0, count, SAMPLE_BATCH):
            part = drawn[start : start + SAMPLE_BATCH]
            shape = (len(part), self.generator.latent)
            z = torch.randn(shape, generator=noise, device=device)
            images = self.generator(z, torch.from_numpy(part).to(device))
            yield to_bytes(images).cpu().numpy(), part

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        weights = self.generator.state_dict()
        arrays = {f"generator.{k}": v.cpu().contiguous().numpy() for k, v in weights.items()}
        return {**arrays, "counts": self.counts}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"width": self.width, "latent": self.generator.latent}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> GANModel:
        """Rebuild a model from what was saved."""
        prefix, width, latent = "generator.", config["width"], config["latent"]
        weights = {
            k[len(prefix) :]: torch.from_numpy(v)
            for k, v in tensors.items()
            if k.startswith(prefix)
        }
        check_tensors(lambda: make_generator(spec, width, latent), weights)
        generator = make_generator(spec, width, latent)
        generator.load_state_dict(weights)
        return cls(spec, generator.eval(), width, checked_counts(tensors["counts"], spec))


def _cpu(spec: PublicSpec) -> Settings:
    """At most an hour on two cores at 28 pixels."""
    return {"batch": min(DPGAN.batch, spec.declared_size or DPGAN.batch)}


CITATION = """\
@article{bie2023private,
  title   = {Private {GAN}s, Revisited},
  author  = {Bie, Alex and Kamath, Gautam and Zhang, Guojun},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2302.02936}
}"""


@dataclass(frozen=True)
class DPGAN(Method):
    """Train a discriminator on noisy sums of clipped gradients, and a generator against it.

    Args:
        steps: DP-SGD steps of the discriminator.
        batch: expected number of images in a step's Poisson sample.
        critic_steps: n_D, discriminator steps for each generator step.
        clip_norm: C, the L2 bound of one image's gradient.
        learning_rate: of Adam, for the discriminator.
        generator_rate: of Adam, for the generator.
        discriminator_width, generator_width: channels of the finest level, multiples of 4.
        latent: dimension of the generator's noise.
        diversity: weight of the generator's reward for telling images of one class apart; 0: none.
        penalty: weight of the discriminator's squared slope at generated images; 0: none.
        average: decay of the running average of the generator that is released.
        warm_up: first train on images drawn from one noisy sum: ``central`` images of each class,
            its ``moments``, or those of a generator matched to a ``mepf`` embedding.
        warm_up_steps: discriminator steps on such images; they cost nothing.
        warm_up_noise: noise multiplier of that sum relative to that of a gradient step.
        seed_public: public seed of weights, of the generator's steps and of the warm-up.

    Guarantee: one :class:`GradientQuery` and, with a warm-up, one :class:`SumQuery`; everything
    else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dpgan"
    title = "DP-GAN: a discriminator trained on noisy gradients, and a generator against it"
    model = GANModel
    presets: ClassVar = {"cpu": _cpu}
    short: ClassVar = {"steps": 10, "batch": 64, "critic_steps": 1}
    citation = CITATION

    steps: int = 3500
    batch: int = 512
    critic_steps: int = 2
    clip_norm: float = 1.0
    learning_rate: float = 5e-4
    generator_rate: float = 5e-4
    discriminator_width: int = 24
    generator_width: int = 32
    latent: int = 64
    diversity: float = 0.2
    penalty: float = 1.0
    average: float = 0.99
    warm_up: WarmUp = "none"
    warm_up_steps: int = 3000
    warm_up_noise: float = 5.0
    seed_public: int = 0

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "critic_steps": 1 <= self.critic_steps <= self.steps,
            "clip_norm": self.clip_norm > 0,
            "learning_rate": self.learning_rate > 0,
            "generator_rate": self.generator_rate > 0,
            "discriminator_width": self.discriminator_width >= 4,
            "generator_width": self.generator_width >= 4 and self.generator_width % 4 == 0,
            "latent": self.latent >= 1,
            "diversity": self.diversity >= 0,
            "penalty": self.penalty >= 0,
            "average": 0 <= self.average < 1,
            "warm_up": self.warm_up in get_args(WarmUp),
            "warm_up_steps": self.warm_up_steps >= self.critic_steps,
            "warm_up_noise": self.warm_up_noise > 0,
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.generator_width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """The discriminator's steps, after one sum where there is a warm-up.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch.
        """
        with torch.device("meta"):
            network = self._discriminator(spec)
        gradient = GradientQuery(
            "gradient",
            sum(parameter.numel() for parameter in network.parameters()),
            self.clip_norm,
            poisson_rate(self.name, self.batch, spec),
            self.steps,
            describes={"loss": "pairs"},
        )
        warm = warm_images(self.warm_up, spec)
        return [gradient] if warm is None else [warm.query(self.warm_up_noise), gradient]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        discriminator, loss = self._untrained(spec)
        device = device_of(discriminator)
        generator = torch.Generator(device).manual_seed(0)
        images = torch.zeros(PROBE, spec.channels, spec.height, spec.width, dtype=torch.uint8)
        labels, draws = torch.zeros(PROBE, dtype=torch.int64), loss.draws(PROBE, generator)

        def step() -> None:
            loss(discriminator, images.to(device), labels.to(device), *draws).sum().backward()

        hours = seconds_of(step) * self.steps * self.batch / PROBE / 3600
        return {"training_time": f"{hours:,.1f} hours or more for {self.steps:,} private steps"}

    def fit(self, curator: Curator) -> GANModel:
        """Train on drawn, then on private images; a killed run goes on where it was."""
        plan = curator.open(self)
        spec = curator.spec
        discriminator, loss = self._untrained(spec)
        parameters = list(discriminator.parameters())
        counts = np.ones(max(len(spec.classes), 1))
        rates = Rates(
            self.learning_rate,
            self.generator_rate,
            self.critic_steps,
            self.average,
            self.diversity,
            self.penalty,
        )
        game = Game(loss, discriminator, rates, self.seed_public, curator.run_folder, curator.quiet)
        warm = warm_images(self.warm_up, spec)
        if warm is not None:
            (query,) = (query for query in plan.queries if isinstance(query, SumQuery))
            warm.learn(curator.sum(query.name), curator.run_folder, curator.quiet)
            counts = warm.counts
            game.plainly("warming up", self.warm_up_steps, warm.draw)

        def noisy_mean(step: int, _: torch.Generator) -> Sequence[Tensor]:
            total = curator.gradient("gradient", step, discriminator, loss)
            return unflatten(total / self.batch, parameters)

        released = game.play(
            "training", self.steps, noisy_mean, lambda done: curator.forget("gradient", done)
        )
        return GANModel(spec, released.eval(), self.generator_width, counts)

    def _discriminator(self, spec: PublicSpec) -> Discriminator:
        classes = max(len(spec.classes), 1)
        return Discriminator(spec.height, spec.channels, classes, self.discriminator_width)

    def _untrained(self, spec: PublicSpec) -> tuple[Discriminator, PairLoss]:
        torch.manual_seed(self.seed_public)
        device = preferred_device()
        discriminator = self._discriminator(spec)
        discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator = make_generator(spec, self.generator_width, self.latent).to(device)
        return discriminator, PairLoss(generator, fast_bfloat16(device))


def make_generator(spec: PublicSpec, width: int, latent: int) -> Generator:
    """An untrained generator for images of ``spec``."""
    classes = max(len(spec.classes), 1)
    generator = Generator(spec.height, spec.channels, classes, width, latent)
    return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
