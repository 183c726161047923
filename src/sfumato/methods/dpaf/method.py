"""DPAF: a generative adversarial network whose discriminator adds features up in the forward pass.

Lin, Hsu, Yu, Cao, Huang, arXiv 2304.12185, changed so that its ε is true:
``docs/methods/dpaf.md`` says what was not private as published. The layers above the sum see real
images through noisy class means only, and are trained for nothing; those below take a step now and
then along a pulled-back gradient, clipped unit by unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.base import Method, Settings, check_rules, poisson_rate
from sfumato.methods.dpaf.settings import FirstLayer, Loss, clip_norm_of
from sfumato.methods.later import later
from sfumato.networks.sizes import (
    COARSEST,
    POOLED,
    LowerShape,
    convolution,
    levels,
    linear,
)
from sfumato.privacy.queries.aggregate import AggregateQuery
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.gradient import GradientQuery

if TYPE_CHECKING:
    from sfumato.methods.model import GeneratorModel
    from sfumato.privacy import Curator


def _cpu(spec: PublicSpec) -> Settings:
    """At most an hour on two cores."""
    # Small data sets in eighths; larger images take longer, so fewer are generated.
    batch = max(1, min(DPAF.batch, (spec.declared_size or 8 * DPAF.batch) // 8))
    share = min(1.0, 28 / max(spec.height, spec.width))
    steps, generated = round(DPAF.steps * share), round(DPAF.generated * share)
    return {"batch": batch, "steps": max(1, steps), "generated": max(1, generated)}


CITATION = """\
@article{lin2023dpaf,
  title   = {{DPAF}: Image Synthesis via Differentially Private Aggregation in Forward Phase},
  author  = {Lin, Chih-Hsun and Hsu, Chia-Yi and Yu, Chia-Mu and Cao, Yang and
             Huang, Chun-Ying},
  journal = {arXiv preprint},
  year    = {2023},
  note    = {arXiv:2304.12185}
}"""


@dataclass(frozen=True)
class DPAF(Method):
    """Train a generator against noisy class means of features, and these features against it.

    Args:
        steps: releases of noisy class means.
        batch: expected number of images in a step's Poisson sample.
        every: μ; each μ-th step also updates the layers below the sum, 0 never does.
        position: convolutions below the sum; by default as many as leave maps of 8 pixels a side.
        normalised: instance-normalise each image's maps before they are added up.
        clip_norm: S, the L2 bound of an image's maps; with ``normalised`` their norm by default.
        gradient_clip_norm: C, the L2 bound of an image's pulled-back gradient, in units of an
            image's share in its class's mean, classes / batch.
        split: shares of the first layer, the lower layers and the class means in the budget, as
            shares of Σ q²T/z², which privacy follows where steps are many; parts that are not used
            count nothing.
        first_layer: ``random``, or ``private``: learned by DP-SGD on a classifier.
        first_layer_steps: of that DP-SGD, in batches of the same size.
        width, maps, upper_width: channels of the first layer, of the maps, and above the sum.
        generator_width, latent: the generator.
        loss: ``hinge`` or ``non-saturating``.
        matching: weight of the distance to the remembered means in the generator's loss.
        generator_steps: steps of the generator and of the layers above the sum for each release.
        generated: generated images of each class in a step.
        memory: how many releases are remembered.
        generator_rate, upper_rate, lower_rate: of Adam.
        average: decay of the running average of the generator that is released.
        seed_public: public seed of weights and of generated images.

    Guarantee: one or two :class:`AggregateQuery`, and a :class:`GradientQuery` where the first
    layer is learned; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dpaf"
    title = "DPAF: a generator trained against noisy class means of features"
    model = later("sfumato.methods.model:GeneratorModel")
    presets: ClassVar = {"cpu": _cpu}
    short: ClassVar = {"steps": 10, "batch": 64}
    citation = CITATION

    steps: int = 1000
    batch: int = 4096
    every: int = 10
    position: int | None = None
    normalised: bool = True
    clip_norm: float | None = None
    gradient_clip_norm: float = 3.0
    split: tuple[float, float, float] = (0.2, 0.2, 0.8)
    first_layer: FirstLayer = "random"
    first_layer_steps: int = 100
    width: int = 16
    maps: int = 16
    upper_width: int = 32
    generator_width: int = 16
    latent: int = 64
    loss: Loss = "hinge"
    matching: float = 0.3
    generator_steps: int = 8
    generated: int = 20
    memory: int = 20
    generator_rate: float = 2e-3
    upper_rate: float = 1e-3
    lower_rate: float = 5e-4
    average: float = 0.999
    seed_public: int = 0

    def __post_init__(self) -> None:
        positive = {
            "steps": 1,
            "batch": 1,
            "first_layer_steps": 1,
            "width": 1,
            "maps": 1,
            "upper_width": 1,
            "latent": 1,
            "generator_steps": 1,
            "generated": 1,
            "memory": 1,
            "every": 0,
            "matching": 0,
        }
        above_zero = ("gradient_clip_norm", "generator_rate", "upper_rate", "lower_rate")
        rules = {
            **{name: getattr(self, name) >= least for name, least in positive.items()},
            **{name: 0 < getattr(self, name) < math.inf for name in above_zero},
            "position": self.position is None or self.position >= 1,
            "clip_norm": self.normalised if self.clip_norm is None else self.clip_norm > 0,
            "split": len(self.split) == 3 and min(self.split) > 0,
            "first_layer": self.first_layer in get_args(FirstLayer),
            "generator_width": self.generator_width >= 4 and self.generator_width % 4 == 0,
            "loss": self.loss in get_args(Loss),
            "average": 0 <= self.average < 1,
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.generator_width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """Steps without and with a gradient, after what the first layer asks.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch; or the
                position does not fit the image; or a private first layer has no classes to learn.
        """
        rate, rows = poisson_rate(self.name, self.batch, spec), max(len(spec.classes), 1)
        deepest = len(levels(spec.height, self.width))
        if self.position is not None and self.position > deepest:
            raise UsageError(
                f"dpaf: position={self.position} must be at most {deepest} for images of "
                f"{spec.height} pixels: below it maps have {COARSEST} pixels a side."
            )
        lower = self.lower(spec)
        joint = self.steps // self.every if self.every and lower.trained else 0
        first, gradient, means = self.split

        def noise(steps: int, share: float) -> float:
            return rate * math.sqrt(steps / share)

        shared: dict[str, Any] = {
            "rows": rows,
            "dimension": lower.maps * lower.side**2 + 1,
            "clip_norm": clip_norm_of(self.reach(spec)),
            "sampling_rate": rate,
            "forward_noise": noise(self.steps, means),
        }
        queries: list[Query] = []
        if self.first_layer == "private":
            if rows < 2:
                raise UsageError("dpaf: first_layer=private needs classes. Use random.")
            size = convolution(spec.channels, self.width, 4)
            size += linear(self.width * POOLED**2, rows)
            steps = self.first_layer_steps
            queries.append(
                GradientQuery("first-layer", size, 1.0, rate, steps, noise(steps, first))
            )
        if self.steps > joint:
            queries.append(AggregateQuery("means", steps=self.steps - joint, **shared))
        if joint:
            queries.append(
                AggregateQuery(
                    "means-and-gradient",
                    steps=joint,
                    **shared,
                    gradient_dimension=lower.trained,
                    gradient_clip_norm=self.gradient_clip_norm * rows / self.batch,
                    backward_noise=noise(joint, gradient),
                )
            )
        return queries

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        import torch

        from sfumato.devices import resolve_device
        from sfumato.methods.estimate import seconds_of
        from sfumato.methods.model import make_generator

        device = resolve_device()
        generator = make_generator(spec, self.generator_width, self.latent).to(device)
        labels = torch.arange(generator.classes, device=device).repeat_interleave(self.generated)
        z = torch.zeros(len(labels), self.latent, device=device)

        def step() -> None:
            generator(z, labels).square().sum().backward()

        hours = seconds_of(step) * self.steps * self.generator_steps * 1.5 / 3600
        return {"training_time": f"{hours:,.1f} hours or more for {self.steps:,} private steps"}

    def fit(self, curator: Curator) -> GeneratorModel:
        """Learn a first layer where wanted, then train on noisy class means."""
        from sfumato.methods.dpaf.private_training import train

        return train(self, curator)

    def lower(self, spec: PublicSpec) -> LowerShape:
        """The layers below the sum."""
        return LowerShape(spec.height, spec.channels, self.width, self.maps, self.position)

    def reach(self, spec: PublicSpec) -> float:
        """The norm that an image's maps have at most."""
        return self.lower(spec).norm if self.clip_norm is None else self.clip_norm
