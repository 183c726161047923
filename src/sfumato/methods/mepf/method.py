"""DP-MEPF: match a generator to a once-privatised mean embedding of perceptual features.

Harder, Jalali, Sutherland, Park, arXiv 2205.12900. One noisy sum is released; every generator step
after it is post-processing, so training longer, or again, costs nothing. What differs from the
published code, and why, is written in ``docs/methods/mepf.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features.shipped import (
    CHANNELS,
    LARGEST_SIZE,
    ShippedCoordinates,
    encoder_digest,
)
from sfumato.methods.base import Batch, Method, Settings, check_rules
from sfumato.methods.later import later
from sfumato.methods.mepf.blocks import Blocks
from sfumato.methods.mepf.settings import MEPFSettings
from sfumato.methods.public_model import PublicModel, note_digests
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.methods.mepf.embedding import Embedding
    from sfumato.methods.mepf.model import MEPFModel
    from sfumato.methods.training import Session
    from sfumato.privacy import Curator

_AFTERWARDS = frozenset(
    "steps batch learning_rate loss moving_average class_weight noise_aware width seed_public "
    "public_model_digest".split()
)
"""Settings of the generator's training, which may change after the embedding was paid for."""

FIRST_VERSION = {"centred": False, "figures": False, "class_weight": 0.0, "noise_aware": False}
"""What an embedding of sfumato 0.1.0, whose configuration names none of them, was made with."""

CITATION = """\
@article{harder2023pretrained,
  title   = {Pre-trained Perceptual Features Improve Differentially Private Image Generation},
  author  = {Harder, Fredrik and Jalali Asadabadi, Milad and Sutherland, Danica J. and
             Park, Mijung},
  journal = {Transactions on Machine Learning Research},
  year    = {2023},
  note    = {arXiv:2205.12900}
}"""


@dataclass(frozen=True)
class DPMEPF(MEPFSettings, Method):
    """Match a generator to a noisy mean embedding of public perceptual features.

    Args:
        steps: generator steps.
        batch: generated images a step, over all classes.
        learning_rate: of Adam, β = (0.5, 0.999), with warm-up and cosine decay.
        loss: ``moving-average`` or ``two-batch``; see :mod:`sfumato.methods.mepf.matching`.
        moving_average: decay of the running embedding of generated images.
        class_weight: in the loss, what tells class means apart counts so many times as much as what
            they have in common, but never less than in the plain distance, nor a hundred times
            more; 0 is the plain distance, as in the paper.
        noise_aware: weigh what the generator misses of the answer by how much of the answer is not
            noise, in bands of public axes, and shrink class sizes and the start's moments
            accordingly; see :mod:`sfumato.methods.shrinkage`.
        encoder: name of the public encoder.
        layers: indices of its blocks whose activations are the features.
        bound: how each image's features are bounded; see :class:`PerceptualFeatures`.
        centred: subtract what public images have on average before the bound; false is the paper's.
        compress: keep this many public principal axes of each moment instead of all features.
        second_weight: weight of the second moment φ₂ in the release; 0 is the paper's "m1".
        random_networks: convolutional networks of random weights whose activations are matched too.
        random_weight: weight of their activations in the release.
        start_coefficients: DCT coefficients of the Gaussian that generated images start from;
            0 starts from noise alone, as in the paper.
        start_weight: weight of the start's moments in the release.
        labeller_size: public axes of the least-squares labeller that names generated images; 0
            keeps the class they were made for, as in the paper.
        encoder_size: side in pixels that images are enlarged to for the labeller, whose features
            are then averages over space; 0 looks at ``layers`` of the image as it is.
        labeller_weight: weight of the labeller's sums in the release.
        count_weight: weight of the one that gives noisy class sizes.
        width: channels of the generator.
        seed_public: public seed of weights and inputs of the generator; privacy noise has none.
        figures: half of the default public images of grey data are drawn figures.
        public: uint8 ``[n, c, h, w]`` public images for scales, means and axes; scikit-learn's
            photographs and drawn figures by default.
        public_model: a :class:`PublicModel` whose network the generator starts from.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "mepf"
    title = "DP-MEPF: a generator matched to one noisy sum of perceptual features"
    model = later("sfumato.methods.mepf.model:MEPFModel")
    short: ClassVar = {"steps": 20, "batch": 50}
    public_presets: ClassVar = {"cpu": {"steps": 5_000}, "gpu": {"steps": 50_000, "width": 96}}
    citation = CITATION

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 2,
            "learning_rate": self.learning_rate > 0,
            "loss": self.loss in ("moving-average", "two-batch"),
            "moving_average": 0 <= self.moving_average < 1,
            "class_weight": self.class_weight >= 0,
            "layers": len(self.layers) > 0
            and list(self.layers) == sorted(set(self.layers))
            and self.layers[-1] < len(CHANNELS),
            "bound": self.bound in ("norm", "clip", "per-layer"),
            "compress": self.compress is None or self.compress >= 1,
            "second_weight": self.second_weight >= 0,
            "random_networks": self.random_networks >= 0,
            "random_weight": self.random_weight > 0,
            "start_coefficients": self.start_coefficients >= 0,
            "labeller_size": self.labeller_size >= 0,
            "encoder_size": self.encoder_size == 0 or 32 <= self.encoder_size <= LARGEST_SIZE,
            "start_weight": self.start_weight > 0,
            "labeller_weight": self.labeller_weight > 0,
            "count_weight": self.count_weight > 0,
            "width": self.width >= 1,
        }
        check_rules(self, rules)
        note_digests(self)

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        public: NDArray[np.uint8] | None = None,
        public_model: PublicModel | None = None,
    ) -> DPMEPF:
        """The method that wrote ``config``; raises UsageError if what it learnt from differs."""
        layers, model = tuple(config["layers"]), public_model
        config = {**FIRST_VERSION, **config, "layers": layers}
        method = cls(**config, public=public, public_model=model)
        started = "" if public_model is None else public_model.digest
        if started != config.get("public_model_digest", ""):
            raise UsageError(
                "this embedding's generator started from another public model; pass the same with "
                "--public-model (public_model=)."
            )
        found = "" if public is None else cls(public=public).public_digest
        if found != method.public_digest:
            raise UsageError(
                "this embedding was made with other public images; pass the same "
                "with --public (public=)."
            )
        return method

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        labeller: dict[str, Any] | None = None
        if self.labeller_size and len(spec.classes) > 1:
            labeller = {"encoder": self.encoder}
            if not self.encoder_size:  # its scales come from public images
                labeller |= {"layers": list(self.layers), "bound": self.bound}
            else:
                labeller |= {"encoder_size": self.encoder_size}
                if not self.public_digest:
                    labeller |= {"axes_digest": self._labeller_space().digest}
        return {"width": self.width, "labeller": labeller}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """One sum: both moments, class sizes, the start and the labeller in a joint release."""
        blocks = Blocks(self, spec)

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            from sfumato.methods.mepf.embedding import joint_embedding

            return joint_embedding(self, spec).contribution(images, labels)

        asked = {key: value for key, value in self.config().items() if key not in _AFTERWARDS}
        describes = {
            **asked,
            "encoder_digest": encoder_digest(),
            "features": blocks.width,
        }
        if blocks.second and self.encoder_size and not self.public_digest:
            describes["labeller_axes_digest"] = self._labeller_space().digest
        return [
            SumQuery(
                "embedding",
                contribution,
                blocks.dimension,
                blocks.norm,
                by_class=True,
                shared=blocks.shared,
                describes=describes,
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        import torch

        from sfumato.devices import CPU, moved, random_on
        from sfumato.methods.estimate import TIMED, reading, seconds_of
        from sfumato.methods.mepf.embedding import JointEmbedding
        from sfumato.methods.mepf.generator import StartedGenerator, refiner

        joint = moved(JointEmbedding(self, spec, blank=True), CPU)
        generator = StartedGenerator(spec, None, refiner(spec, self.width))
        batch = min(self.batch, TIMED)
        labels = torch.zeros(batch, dtype=torch.int64)
        random = random_on(CPU, self.seed_public)

        def step() -> None:
            images, _ = generator(labels, random)
            torch.stack(
                [layer.sum() for layer in joint.features.activations(images)]
            ).sum().backward()

        (query,) = self.queries(spec)
        assert isinstance(query, SumQuery)
        minutes = seconds_of(step) * self.batch / batch * self.steps / 60
        training = f"{minutes:.0f} minutes for {self.steps:,} steps"
        blank = replace(query, contribution=joint.contribution)
        return {**reading(blank, spec), "training_time": training}

    def fit(self, curator: Curator) -> MEPFModel:
        """Ask once, then train; a killed run goes on from its checkpoint with the same answer."""
        from sfumato.methods.mepf.embedding import Embedding, joint_embedding
        from sfumato.methods.mepf.matching import first_refiner
        from sfumato.methods.training import Session

        # What is wrong with public images or a public model is said before the charge.
        joint_embedding(self, curator.spec)
        first_refiner(self, curator.spec, self.seed_public)
        curator.open(self)
        answer = curator.sum("embedding")
        embedding = Embedding(
            answer.total, answer.shared, answer.noise_std, curator.spec, self.config()
        )
        return self.learn(embedding, Session.of(curator))

    @classmethod
    def pretrained(
        cls, spec: PublicSpec, public: Batch, settings: Settings, session: Session
    ) -> MEPFModel:
        """A generator matched to the embedding of public images, without noise."""
        from sfumato.methods.mepf.embedding import joint_embedding, public_embedding

        method = cls.of(settings)
        embedding = public_embedding(joint_embedding(method, spec), public, method.config())
        return method.learn(embedding, session)

    def learn(self, embedding: Embedding, session: Session | None = None) -> MEPFModel:
        """Train a generator on a released embedding: post-processing, at no privacy cost."""
        from sfumato.methods.mepf.embedding import joint_embedding
        from sfumato.methods.mepf.matching import Matching
        from sfumato.methods.mepf.model import MEPFModel

        joint = joint_embedding(self, embedding.spec)
        targets = joint.targets(embedding)
        generator = Matching(joint, targets, self.seed_public, session).run()
        return MEPFModel(embedding.spec, targets.counts, generator, targets.labeller, embedding)

    def _labeller_space(self) -> ShippedCoordinates:
        return ShippedCoordinates(self.encoder, self.encoder_size, self.labeller_size)


def fit_embedding(
    path: Path,
    *,
    seed_public: int | None = None,
    steps: int | None = None,
    public: NDArray[np.uint8] | None = None,
    public_model: PublicModel | None = None,
    session: Session | None = None,
) -> MEPFModel:
    """Train a new generator on a released ``embedding.safetensors``, at no privacy cost.

    Args:
        path: the released embedding.
        seed_public: another public seed than the embedding's own.
        steps: another number of generator steps.
        public: the public images the embedding was made with, where they were not the default.
        public_model: the public model that its generator started from, where there was one.
        session: where the training runs; without checkpoints and on the CPU by default.

    Raises:
        DataError: the file is not a released embedding.
        UsageError: ``public`` or ``public_model`` is not what the embedding was made with.
    """
    from sfumato.methods.mepf.embedding import Embedding

    embedding = Embedding.load(path)
    changes = {"seed_public": seed_public, "steps": steps}
    changed = {key: value for key, value in changes.items() if value is not None}
    method = DPMEPF.from_config({**embedding.config, **changed}, public, public_model)
    return method.learn(embedding, session)
