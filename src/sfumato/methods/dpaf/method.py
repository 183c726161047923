"""DPAF: a generative adversarial network whose discriminator adds features up in the forward pass.

Lin, Hsu, Yu, Cao, Huang, arXiv 2304.12185, changed so that its ε is true:
``docs/methods/dpaf.md`` says what was not private as published. The layers above the sum see real
images through noisy class means only, and are trained for nothing; those below take a step now and
then along a pulled-back gradient, clipped unit by unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch

from sfumato.data.spec import PublicSpec
from sfumato.devices import resolve_device
from sfumato.errors import UsageError
from sfumato.methods.base import Method, Settings, check_rules, poisson_rate
from sfumato.methods.dpaf.asymmetric_training import AsymmetricSettings, AsymmetricTraining, Loss
from sfumato.methods.dpaf.class_means import ClassMaps, NoisyClassMeans
from sfumato.methods.dpaf.first_layer import Classifier, learn_first_layer
from sfumato.methods.estimate import seconds_of
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session
from sfumato.networks import Generator
from sfumato.networks.aggregating import FixedConvolution, Lower, Upper
from sfumato.networks.gan import COARSEST, levels
from sfumato.privacy import AggregateQuery, Curator, GradientQuery, Query

FirstLayer = Literal["random", "private"]


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
    model = GeneratorModel
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
        with torch.device("meta"):
            lower = self._lower(spec)
            classifier = Classifier(spec.channels, self.width, rows)
        maps = self._maps(lower)
        below = sum(parameter.numel() for parameter in lower.parameters())
        joint = self.steps // self._every(lower) if self._every(lower) else 0
        first, gradient, means = self.split

        def noise(steps: int, share: float) -> float:
            return rate * math.sqrt(steps / share)

        shared = {
            "rows": rows,
            "dimension": lower.maps * lower.side**2 + 1,
            "clip_norm": maps.clip_norm,
            "sampling_rate": rate,
            "forward_noise": noise(self.steps, means),
        }
        queries: list[Query] = []
        if self.first_layer == "private":
            if rows < 2:
                raise UsageError("dpaf: first_layer=private needs classes. Use random.")
            size = sum(parameter.numel() for parameter in classifier.parameters())
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
                    gradient_dimension=below,
                    gradient_clip_norm=self.gradient_clip_norm * rows / self.batch,
                    backward_noise=noise(joint, gradient),
                )
            )
        return queries

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        device = resolve_device()
        _, _, generator = self._untrained(spec, device)
        labels = torch.arange(generator.classes, device=device).repeat_interleave(self.generated)
        z = torch.zeros(len(labels), self.latent, device=device)

        def step() -> None:
            generator(z, labels).square().sum().backward()

        hours = seconds_of(step) * self.steps * self.generator_steps * 1.5 / 3600
        return {"training_time": f"{hours:,.1f} hours or more for {self.steps:,} private steps"}

    def fit(self, curator: Curator) -> GeneratorModel:
        """Learn a first layer where wanted, then train on noisy class means."""
        plan = curator.open(self)
        spec, session = curator.spec, Session.of(curator)
        asked = {query.name: query for query in plan.queries}
        lower, upper, generator = self._untrained(spec, session.device)
        maps, rows = self._maps(lower), generator.classes
        if "first-layer" in asked:
            self._transfer(lower, asked["first-layer"], curator)
        forward, joint = (asked.get(name) for name in ("means", "means-and-gradient"))
        assert forward is None or isinstance(forward, AggregateQuery)
        assert joint is None or isinstance(joint, AggregateQuery)
        some = forward or joint
        assert some is not None
        tally = torch.zeros(rows + 1, device=session.device)
        means = NoisyClassMeans(
            curator,
            forward,
            joint,
            self._every(lower),
            some.noise_stds(plan.event(some.name).noise_std)[0],
            lower,
            maps,
            self.batch / rows,
            tally,
        )
        training = AsymmetricTraining(
            session, lower, upper, generator, maps, self._settings(lower), self.seed_public
        )
        released = training.run(self.steps, means, tally, means.forget)
        counts = means.counts().double().cpu().numpy()
        return GeneratorModel(spec, released, self.generator_width, counts)

    def _transfer(self, lower: Lower, query: Query, curator: Curator) -> None:
        """Learn the first layer and put it in its place."""
        assert isinstance(query, GradientQuery)
        spec = curator.spec
        classifier = Classifier(spec.channels, self.width, len(spec.classes)).to(lower.device)
        learned = learn_first_layer(classifier, query, self.batch, 1e-3, curator)
        first = lower.blocks[0]
        assert isinstance(first, FixedConvolution)
        first.load_state_dict({k: v.detach() for k, v in learned.state_dict().items()})

    def _every(self, lower: Lower) -> int:
        """μ, or 0 where no layer below the sum is trained."""
        return self.every if any(True for _ in lower.parameters()) else 0

    def _settings(self, lower: Lower) -> AsymmetricSettings:
        names = {f.name for f in fields(AsymmetricSettings)} - {"every"}
        values = {name: getattr(self, name) for name in names}
        return AsymmetricSettings(**values, every=self._every(lower))

    def _lower(self, spec: PublicSpec) -> Lower:
        return Lower(
            spec.height, spec.channels, self.width, self.maps, self.position, self.normalised
        )

    def _maps(self, lower: Lower) -> ClassMaps:
        return ClassMaps(lower.norm if self.clip_norm is None else self.clip_norm)

    def _untrained(self, spec: PublicSpec, device: torch.device) -> tuple[Lower, Upper, Generator]:
        torch.manual_seed(self.seed_public)
        lower = self._lower(spec)
        upper = Upper(lower, max(len(spec.classes), 1), self.upper_width)
        generator = make_generator(spec, self.generator_width, self.latent)
        return lower.to(device), upper.to(device), generator.to(device)
