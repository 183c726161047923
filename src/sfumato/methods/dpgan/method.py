"""DP-GAN: a generative adversarial network whose discriminator is trained by DP-SGD.

Xie, Lin, Wang, Wang, Zhou, arXiv 1802.06739, with the many discriminator steps for each generator
step of Bie, Kamath, Zhang, arXiv 2302.02936. The generator sees private images only through the
discriminator, whose every step asks for one noisy sum of clipped gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Method, Settings, check_rules, poisson_rate
from sfumato.methods.later import later
from sfumato.networks.sizes import discriminator_parameters
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.gradient import GradientQuery

if TYPE_CHECKING:
    from sfumato.methods.model import GeneratorModel
    from sfumato.privacy import Curator


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
        diversity: weight of the generator's reward for distinct images of a class; 0: none.
        penalty: weight of the discriminator's squared slope at generated images; 0: none.
        average: decay of the running average of the generator that is released.
        seed_public: public seed of weights and of generated images.

    Guarantee: one :class:`GradientQuery`; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dpgan"
    title = "DP-GAN: a discriminator trained on noisy gradients, and a generator against it"
    model = later("sfumato.methods.model:GeneratorModel")
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
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.generator_width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """The discriminator's steps.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch.
        """
        classes, width = max(len(spec.classes), 1), self.discriminator_width
        return [
            GradientQuery(
                "gradient",
                discriminator_parameters(spec.height, spec.channels, classes, width),
                self.clip_norm,
                poisson_rate(self.name, self.batch, spec),
                self.steps,
                describes={"loss": "pairs"},
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        from sfumato.devices import resolve_device
        from sfumato.methods.dpgan.private_training import untrained
        from sfumato.methods.estimate import gradient_steps

        (query,) = self.queries(spec)
        assert isinstance(query, GradientQuery)
        return gradient_steps(*untrained(self, spec, resolve_device()), query, spec)

    def fit(self, curator: Curator) -> GeneratorModel:
        """Train on noisy gradients; a killed run goes on where it was."""
        from sfumato.methods.dpgan.private_training import train

        return train(self, curator)
