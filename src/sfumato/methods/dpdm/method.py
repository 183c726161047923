"""DPDM: a diffusion model trained by DP-SGD with noise multiplicity.

Dockhorn, Cao, Vahdat, Kreis, arXiv 2210.09929. Each step asks for one noisy sum of clipped
gradients; a unit's gradient is the mean over K noise levels, inside the clip. Before that the model
may be pre-trained on public images (PDP-Diffusion, arXiv 2305.10655) and warmed up on images
sampled from one noisy ``sum`` (with central images: DP-FETA, arXiv 2504.07822).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.base import (
    Batch,
    Method,
    Settings,
    check_rules,
    poisson_rate,
)
from sfumato.methods.dpdm.first_queries import WarmUp, votes_query, warm_query
from sfumato.methods.dpdm.presets import BATCH, PUBLIC, cpu, paper
from sfumato.methods.dpdm.settings import PARAMETERISATIONS, Shape, check_sampler
from sfumato.methods.later import later
from sfumato.methods.public_model import PublicModel, note_digests
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.gradient import GradientQuery

if TYPE_CHECKING:
    from sfumato.methods.dpdm.diffusion import DiffusionModel
    from sfumato.methods.training import Session
    from sfumato.privacy import Curator

Finetune = Literal["all", "last", "adapters"]

PRE_TRAINING = 10_000
"""Steps on public images of a model that is trained on them alone."""

VOTES_NEED = (
    "public_votes={} needs public classes, two or more: those of a public model that was trained "
    "with labels, --public-model (public_model=), or of labelled images to learn from, --public "
    "with --pretrain (public=, pretrain=)."
)

CITATION = """\
@article{dockhorn2023differentially,
  title   = {Differentially Private Diffusion Models},
  author  = {Dockhorn, Tim and Cao, Tianshi and Vahdat, Arash and Kreis, Karsten},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2210.09929}
}"""


@dataclass(frozen=True)
class DPDM(Method):
    """Train a diffusion model on noisy sums of clipped gradients.

    Args:
        steps: DP-SGD steps.
        batch: expected number of images in a step's Poisson sample.
        multiplicity: K, noise levels sampled for each image; averaged inside the clip.
        clip_norm: C, the L2 bound of one image's gradient.
        learning_rate: of Adam, in the private steps.
        parameterisation: ``edm``, ``v``, ``vp`` or ``ve``.
        width, multipliers, blocks, attention, patch: the network; see :class:`UNet`.
        average: decay of the running average of weights that is released.
        finetune: what the private steps train: ``all`` weights; the ``last`` block, the output and
            the classes; or low-rank ``adapters`` of all layers, and the classes (LoRA, arXiv
            2106.09685; DP-LoRA, arXiv 2406.01355). The other weights stay as a public model, public
            images or a warm-up left them, and noise is added to fewer coordinates.
        rank: of each adapter.
        label_dropout: share of units whose label is dropped, for guidance.
        sampler: ``quick``, ``accuracy``, ``fid``, ``ddim`` or ``ddim-stochastic``.
        sampling_steps: the sampler's steps; its own by default.
        warm_up: first train on images sampled from one noisy sum: ``central`` images of each class,
            its ``moments``, or those of a generator matched to a ``mepf`` embedding.
        warm_up_steps: steps on such images; they cost nothing.
        warm_up_noise: noise multiplier of that sum relative to that of a gradient step.
        public_steps: steps on public images, before everything else.
        public_conditional: whether these use the public images' own labels.
        public_votes: how many public classes each private class chooses by the votes of its
            records, one histogram; 0: none are asked. It starts as these in a public model, and
            public images are learnt from where these are nearest, under its name.
        public_votes_noise: noise multiplier of the votes relative to that of a gradient step.
        public_classes: how many public classes are voted for; found where they are at hand.
        public_learning_rate: of Adam, without noise: on public images and those of the warm-up.
        seed_public: public seed of weights and of training without noise.
        public: uint8 ``[n, c, h, w]`` public images; ``public_labels``: int64 ``[n]``.
        public_model: a :class:`PublicModel` that the network starts from, before everything else.

    Guarantee: one :class:`GradientQuery`, with a warm-up one :class:`SumQuery`, and with votes for
    public classes one :class:`NearestQuery`; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dpdm"
    title = "DPDM: a diffusion model trained on noisy sums of clipped gradients"
    model = later("sfumato.methods.dpdm.diffusion:DiffusionModel")
    presets: ClassVar = {"cpu": cpu, "paper": paper}
    started: ClassVar = {"warm_up": "none"}  # it would cover what the public model knows
    public_presets: ClassVar = PUBLIC
    short: ClassVar = {
        "steps": 10,
        "batch": 64,
        "multiplicity": 1,
        "width": 8,
        "blocks": 1,
        "patch": 4,
    }
    citation = CITATION

    steps: int = 80
    batch: int = BATCH
    multiplicity: int = 4
    clip_norm: float = 1.0
    learning_rate: float = 5e-4
    parameterisation: str = "edm"
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: int = 8
    patch: int = 2
    average: float = 0.99
    finetune: Finetune = "all"
    rank: int = 4
    label_dropout: float = 0.1
    sampler: str = "quick"
    sampling_steps: int | None = None
    warm_up: WarmUp = "none"
    warm_up_steps: int = 3000
    warm_up_noise: float = 5.0
    public_steps: int = 0
    public_conditional: bool = False
    public_votes: int = 0
    public_votes_noise: float = 5.0
    public_classes: int = 0
    public_learning_rate: float = 1e-3
    seed_public: int = 0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_labels: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""
    public_model: PublicModel | None = field(default=None, compare=False, repr=False)
    public_model_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "multiplicity": self.multiplicity >= 1,
            "clip_norm": self.clip_norm > 0,
            "learning_rate": self.learning_rate > 0,
            "parameterisation": self.parameterisation in PARAMETERISATIONS,
            "width": self.width >= 4 and self.width % 4 == 0,
            "multipliers": len(self.multipliers) > 0 and min(self.multipliers) >= 1,
            "blocks": self.blocks >= 1,
            "patch": self.patch >= 1,
            "average": 0 <= self.average < 1,
            "finetune": self.finetune in get_args(Finetune),
            "rank": self.rank >= 1,
            "label_dropout": 0 <= self.label_dropout <= 1,
            "warm_up": self.warm_up in get_args(WarmUp),
            "warm_up_steps": self.warm_up_steps >= 1,
            "warm_up_noise": self.warm_up_noise > 0,
            "public_steps": self.public_steps >= 0,
            "public_votes": self.public_votes >= 0,
            "public_votes_noise": self.public_votes_noise > 0,
            "public_learning_rate": self.public_learning_rate > 0,
        }
        check_rules(self, rules)
        check_sampler(self.sampler, self.sampling_steps)
        if self.public_steps and self.public is None:
            raise UsageError(
                f"dpdm: public_steps={self.public_steps} needs public images. Pass "
                "--public (public=)."
            )
        note_digests(self)
        if self.public_votes:
            self._count_public_classes()
        # Verify knows the digest of public images alone.
        learnt = self.public_digest and (self.public is None or self.public_steps)
        started = learnt or self.public_model_digest or self.warm_up != "none"
        if self.finetune != "all" and not started:
            raise UsageError(
                f"dpdm: finetune={self.finetune!r} leaves the other weights as they start, which "
                "is at random here. Pass a public model, --public-model (public_model=), or public "
                "images with steps on them, or set warm_up."
            )

    def _count_public_classes(self) -> None:
        """State how many public classes are voted for, which a plan has to say.

        Raises:
            UsageError: they are fewer than two, or their labels are to stand for private classes.
        """
        if self.public_model is not None and self.public_model.centres is not None:
            object.__setattr__(self, "public_classes", len(self.public_model.centres))
        elif self.public is not None and self.public_labels is not None:
            count = int(self.public_labels.max(initial=-1)) + 1 if self.public_steps else 0
            object.__setattr__(self, "public_classes", count)
        if self.public_classes < 2:
            raise UsageError(f"dpdm: {VOTES_NEED.format(self.public_votes)}")
        if self.public_conditional:
            raise UsageError(
                "dpdm: public_conditional=True takes public labels for private classes, and "
                f"public_votes={self.public_votes} asks which of them are alike. Leave one out."
            )

    @property
    def shape(self) -> Shape:
        """The network's configuration."""
        return Shape(self.width, self.multipliers, self.blocks, self.attention, self.patch)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        # A sampler can be chosen anew at every draw.
        return {"shape": asdict(self.shape), "parameterisation": self.parameterisation}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """The gradient's steps, after votes for public classes and the sum of a warm-up, if any.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch.
        """
        first: list[Query] = []
        if self.public_votes:
            classes = max(1, len(spec.classes))
            first += [votes_query(classes, self.public_classes, self.public_votes_noise)]
        if self.warm_up != "none":
            first += [warm_query(self.warm_up, spec, self.warm_up_noise)]
        return [*first, self.gradient(spec)]

    def gradient(self, spec: PublicSpec) -> GradientQuery:
        """The query of the private steps.

        Raises:
            UsageError: the number of records is not declared, or is smaller than the batch.
        """
        about: dict[str, Any] = {"multiplicity": self.multiplicity, "finetune": self.finetune}
        return GradientQuery(
            "gradient",
            self._trained_parameters(spec),
            self.clip_norm,
            poisson_rate(self.name, self.batch, spec),
            self.steps,
            describes=about | ({"rank": self.rank} if self.finetune == "adapters" else {}),
        )

    def _trained_parameters(self, spec: PublicSpec) -> int:
        layers = self.shape.layers(spec)
        if self.finetune == "adapters":
            adapters = sum(layer.adapter(self.rank) for layer in layers if layer.adapted)
            return adapters + sum(layer.parameters for layer in layers if layer.label)
        return sum(layer.parameters for layer in layers if layer.last or self.finetune == "all")

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        from sfumato.devices import resolve_device
        from sfumato.methods.dpdm.private_training import finetuned, untrained
        from sfumato.methods.estimate import gradient_steps

        query = self.gradient(spec)
        network, loss = untrained(self, spec, resolve_device())
        return gradient_steps(finetuned(self, network), loss, query, spec)

    def fit(self, curator: Curator) -> DiffusionModel:
        """Train on public, then sampled, then private images; a killed run goes on where it was."""
        from sfumato.methods.dpdm.private_training import train

        return train(self, curator)

    @classmethod
    def pretrained(
        cls, spec: PublicSpec, public: Batch, settings: Settings, session: Session
    ) -> DiffusionModel:
        """A denoiser of public images, with their labels where they have some."""
        from sfumato.methods.dpdm.private_training import train_on_public

        usual = {"public_steps": PRE_TRAINING, "public_conditional": bool(spec.classes)}
        images = {"public": public[0], "public_labels": public[1]}
        return train_on_public(cls.of({**usual, **images, **settings}), spec, session)
