"""DPAF: a generative adversarial network whose discriminator adds features up in the forward pass.

Lin, Hsu, Yu, Cao, Huang, arXiv 2304.12185, changed so that its ε is true:
``docs/methods/dpaf.md`` says what was not private as published. The layers above the sum see real
images through noisy class means only, and are trained for nothing; those below take a step now and
then along a pulled-back gradient, clipped unit by unit, or are layers of a public encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features.shipped import CHANNELS
from sfumato.methods.base import Method, Settings, check_rules, poisson_rate
from sfumato.methods.dpaf.settings import FirstLayer, Loss, clip_norm_of
from sfumato.methods.later import later
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.public_model import PublicModel, note_digests
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
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from sfumato.methods.model import ImageModel
    from sfumato.privacy import Curator


def _cpu(spec: PublicSpec) -> Settings:
    """At most an hour on two cores."""
    # Small data sets in eighths; larger images take longer, so fewer are generated.
    batch = max(1, min(DPAF.batch, (spec.declared_size or 8 * DPAF.batch) // 8))
    share = min(1.0, 28 / max(spec.height, spec.width))
    steps, generated = round(DPAF.steps * share), round(DPAF.generated * share)
    return {"batch": batch, "steps": max(1, steps), "generated": max(1, generated)}


def _public(spec: PublicSpec) -> Settings:
    """Layers of the public encoder, and one release over all records.

    The average of releases over smaller samples has at least as much noise for the same ε.
    """
    return {
        "first_layer": "public",
        "steps": 1,
        "batch": spec.declared_size or DPAF.batch,
        "generator_steps": 240,
        "generated": max(2, 40 // max(len(spec.classes), 1)),
        "moving_average": 0.95,
        "matching": 10.0,
        "generator_width": 48,
        "generator_rate": 5e-4,
    }


OTHER_LAYERS = ("position", "normalised", "clip_norm", "maps")
"""Options of layers that are not public."""

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
        first_layer: ``random``; ``private``: learned by DP-SGD on a classifier; or ``public``: all
            layers below the sum are those of a public encoder, and nothing there is trained.
        first_layer_steps: of that DP-SGD, in batches of the same size.
        width, maps, upper_width: channels of the first layer, of the maps, and above the sum.
        layers: with ``public``, the encoder's blocks whose activations are added up: different
            numbers from 0 to 17, ascending.
        second_weight: with ``public``, weight of the activations' squares; 0 leaves them out.
        start_coefficients: with ``public``, DCT coefficients of the class Gaussians that generated
            images start from, in the same release; 0 starts from grey.
        generator_width, latent: the generator; with ``public`` it is DP-MEPF's, without ``latent``.
        loss: ``hinge`` or ``non-saturating``.
        matching: weight of the distance to the remembered means in the generator's loss.
        generator_steps: steps of the generator and of the layers above the sum for each release.
        generated: generated images of each class in a step.
        moving_average: decay of the running means of generated images, which are judged in the
            place of a batch's; 0 judges each batch by itself.
        memory: how many releases are remembered.
        generator_rate, upper_rate, lower_rate: of Adam.
        average: decay of the running average of the generator that is released.
        seed_public: public seed of weights and of generated images.
        public: with ``public``, uint8 ``[n, c, h, w]`` public images for the scales of the layers;
            scikit-learn's photographs by default.
        public_model: with ``public``, a :class:`PublicModel` of ``mepf`` whose network the
            generator starts from.

    Guarantee: one or two :class:`AggregateQuery`, and a :class:`GradientQuery` where the first
    layer is learned; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dpaf"
    title = "DPAF: a generator trained against noisy class means of features"
    model = later("sfumato.methods.dpaf.model:DPAFModel")
    presets: ClassVar = {"cpu": _cpu, "public": _public}
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
    layers: tuple[int, ...] = (3, 5, 8, 11)
    second_weight: float = 0.5
    start_coefficients: int = 80
    width: int = 16
    maps: int = 16
    upper_width: int = 32
    generator_width: int = 16
    latent: int = 64
    loss: Loss = "hinge"
    matching: float = 0.3
    generator_steps: int = 8
    generated: int = 20
    moving_average: float = 0.0
    memory: int = 20
    generator_rate: float = 2e-3
    upper_rate: float = 1e-3
    lower_rate: float = 5e-4
    average: float = 0.999
    seed_public: int = 0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""
    public_model: PublicModel | None = field(default=None, compare=False, repr=False)
    public_model_digest: str = ""

    def __post_init__(self) -> None:
        note_digests(self)
        if self.public_model is not None:
            width = self.public_model.settings().get("width", self.generator_width)
            object.__setattr__(self, "generator_width", width)
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
            "generator_width": self.generator_width >= 1
            and (self.first_layer == "public" or self.generator_width % 4 == 0),
            "loss": self.loss in get_args(Loss),
            "average": 0 <= self.average < 1,
            "moving_average": 0 <= self.moving_average < 1,
            "layers": len(self.layers) > 0
            and list(self.layers) == sorted(set(self.layers))
            and 0 <= self.layers[0] <= self.layers[-1] < len(CHANNELS),
            "second_weight": 0 <= self.second_weight < math.inf,
            "start_coefficients": self.start_coefficients >= 0,
        }
        check_rules(self, rules)
        self._check_layers()

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        if self.first_layer == "public":
            return {"width": self.generator_width, "labeller": None}
        return {"width": self.generator_width, "latent": self.latent}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """Steps without and with a gradient, after what the first layer asks; or public layers'.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch; or the
                position does not fit the image; or a private first layer has no classes to learn.
        """
        rate, rows = poisson_rate(self.name, self.batch, spec), max(len(spec.classes), 1)
        if self.first_layer == "public":
            (asked,) = self.embedding().queries(spec)
            assert isinstance(asked, SumQuery)
            return [
                AggregateQuery(
                    "means",
                    rows,
                    asked.dimension,
                    asked.clip_norm,
                    rate,
                    self.steps,
                    describes=asked.describes,
                )
            ]
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
        if self.first_layer == "public":
            return self._estimate_of_public(spec)
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

    def _estimate_of_public(self, spec: PublicSpec) -> dict[str, str]:
        """A turn is a step of DP-MEPF's training, and a release a pass over a part of the data."""
        turns, rows = self.steps * self.generator_steps, max(len(spec.classes), 1)
        alike = replace(self.embedding(), steps=turns, batch=max(2, self.generated * rows))
        found, passes = alike.estimate(spec), self.steps * poisson_rate(self.name, self.batch, spec)
        if passes != 1:
            found["reading_time"] = f"{passes:,.1f} times {found['reading_time']}"
        return found

    def fit(self, curator: Curator) -> ImageModel:
        """Learn a first layer where wanted, then train on noisy class means."""
        from sfumato.methods.dpaf import private_training

        if self.first_layer == "public":
            return private_training.train_on_public_layers(self, curator)
        return private_training.train(self, curator)

    def embedding(self) -> DPMEPF:
        """DP-MEPF without a labeller, whose contributions are the rows of public layers."""
        return DPMEPF(
            layers=self.layers,
            second_weight=self.second_weight,
            start_coefficients=self.start_coefficients,
            labeller_size=0,
            centred=False,
            figures=False,
            width=self.generator_width,
            seed_public=self.seed_public,
            public=self.public,
            public_digest=self.public_digest,
            public_model=self.public_model,
            public_model_digest=self.public_model_digest,
        )

    def _check_layers(self) -> None:
        if self.first_layer != "public":
            if self.public_digest or self.public_model_digest:
                raise UsageError(
                    "dpaf: public images and a public model are for public layers. "
                    "Set first_layer=public, or --preset public (preset=)."
                )
            return
        for name in OTHER_LAYERS:
            value = getattr(self, name)
            if value != getattr(DPAF, name):
                raise UsageError(
                    f"dpaf: {name}={value!r} is of layers that are not public. With "
                    "first_layer=public, layers names the blocks of the encoder."
                )

    def lower(self, spec: PublicSpec) -> LowerShape:
        """The layers below the sum."""
        return LowerShape(spec.height, spec.channels, self.width, self.maps, self.position)

    def reach(self, spec: PublicSpec) -> float:
        """The norm that an image's maps have at most."""
        return self.lower(spec).norm if self.clip_norm is None else self.clip_norm
