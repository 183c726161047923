"""Guided: public images, or a public denoiser's, chosen and pulled by one private sum.

The sum is DP-MEPF's joint release. It gives a private labeller and the mean embedding of each
class, and both guide what is public: which images are chosen, how they are pulled (classifier and
moment guidance), and how a public denoiser is sampled from (universal guidance, arXiv 2302.07121).
DP-MEPF's generator, matched to the same answer, makes the rest. All of it is post-processing of
one noisy answer (``docs/proofs/sum.md``); no private gradient is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, moved, random_on
from sfumato.errors import UsageError
from sfumato.methods.base import Method, Sampling, check_rules, digest_of, labels_for
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.dpdm.diffusion import Denoiser, DiffusionModel
from sfumato.methods.dpdm.samplers import SIGMA_MAX, SIGMA_MIN
from sfumato.methods.estimate import TIMED, seconds_of
from sfumato.methods.guided.guidance import Guidance
from sfumato.methods.guided.pieces import in_pieces
from sfumato.methods.guided.sources import (
    PublicDenoiser,
    Pulled,
    Source,
    StartingImages,
    chosen_by,
    public_classes,
    with_views,
)
from sfumato.methods.mepf.embedding import Embedding, JointEmbedding, joint_embedding
from sfumato.methods.mepf.labeller import Labeller
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.mepf.model import MEPFModel
from sfumato.methods.public_model import PublicModel, check_at_hand
from sfumato.methods.training import Session
from sfumato.networks import to_bytes
from sfumato.privacy import Curator, Query
from sfumato.privacy.ledger import digest

AT_ONCE = 250
"""Images of a class that are guided, and stored, together: a mean embedding needs many."""

SAMPLED = 2000
"""Images of the matched generator that are sampled, and stored, together."""

CITATION = """\
@inproceedings{bansal2024universal,
  title     = {Universal Guidance for Diffusion Models},
  author    = {Bansal, Arpit and Chu, Hong-Min and Schwarzschild, Avi and Sengupta, Soumyadip and
               Goldblum, Micah and Geiping, Jonas and Goldstein, Tom},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2302.07121}
}"""


@dataclass(frozen=True)
class Guided(Method):
    """Choose and pull public images, or sample a public denoiser, by a released embedding.

    Args:
        kept: images of each class in the released model.
        matched: share of them that DP-MEPF's generator makes, which is trained on the same answer.
        matching_steps: steps of its training.
        views: random parts of each public image that are candidates beside the image itself.
        pull_steps: slopes of the guidance that each chosen or generated image is moved along.
        sampling_steps: noise levels of the public model's sampler; it moves along a slope at each.
        length: root mean square of a move over an image's values, which go from 0 to 1.
        moment_weight: weight of the distance to a class's mean embedding beside the labeller's
            loss; 0 saves a pass of the encoder.
        mirrored: whether a mirrored image is of the same class: true of photographs, not of
            letters.
        start_noise: with a public model, the noise that chosen and generated images are given
            before they are denoised; black and white are −1 and 1.
        labeller_size, encoder_size, labeller_weight: of the labeller; see :class:`DPMEPF`.
        seed_public: public seed of generator, views and sampler; privacy noise has none.
        public: uint8 ``[n, c, h, w]`` public images.
        public_model: a :class:`PublicModel` of ``dpdm``.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "guided"
    title = "public images, or a public denoiser's, chosen and pulled by one noisy sum"
    model = ChosenImages
    short: ClassVar = {"kept": 10, "matching_steps": 20, "pull_steps": 1}
    card = (
        "Its images are public ones, altered or not, or were sampled from a public model; others "
        "were made by a generator. Licences of the public images apply to it."
    )
    citation = CITATION

    kept: int = 5000
    matched: float = 0.5
    matching_steps: int = 1500
    views: int = 1
    pull_steps: int = 0
    sampling_steps: int = 18
    length: float = 0.005
    moment_weight: float = 1.0
    mirrored: bool = True
    start_noise: float = 0.5
    labeller_size: int = 600
    encoder_size: int = 64
    labeller_weight: float = 0.85
    seed_public: int = 0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""
    public_model: PublicModel | None = field(default=None, compare=False, repr=False)
    public_model_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "kept": self.kept >= 1,
            "matched": 0 <= self.matched < 1,
            "matching_steps": self.matching_steps >= 1,
            "views": self.views >= 0,
            "pull_steps": self.pull_steps >= 0,
            "sampling_steps": self.sampling_steps >= 2,
            "length": 0 <= self.length <= 1,
            "moment_weight": self.moment_weight >= 0,
            "start_noise": SIGMA_MIN < self.start_noise <= SIGMA_MAX,
            "labeller_size": self.labeller_size >= 1,
        }
        check_rules(self, rules)
        if self.public is not None and not self.public_digest:
            object.__setattr__(self, "public_digest", digest_of(self.public))
        if self.public_model is not None:
            object.__setattr__(self, "public_model_digest", self.public_model.digest)
        self._matching()  # its rules are said at once

    @property
    def generated(self) -> int:
        """How many of the kept images of a class the matched generator makes."""
        return round(self.kept * self.matched)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"kept": self.kept}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """DP-MEPF's sum, with a labeller that sees images enlarged.

        Raises:
            UsageError: there are neither public images nor a public model.
        """
        if not (self.public_digest or self.public_model_digest):
            raise UsageError(
                "guided: there is nothing public to guide. Pass public images, --public (public=), "
                "or a public model of dpdm, --public-model MODEL (public_model=)."
            )
        return self._matching().queries(spec)

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        matching, classes = self._matching(), max(1, len(spec.classes))
        joint = moved(JointEmbedding(matching, spec, blank=True), CPU)
        labeller = None
        if joint.coordinates is not None:
            weights = torch.zeros(joint.coordinates.width + 1, classes)
            labeller = Labeller(joint.coordinates, weights)
        means = torch.zeros(classes, joint.width)
        guidance = Guidance(joint, labeller, means, self.moment_weight, self.mirrored)
        seconds, total = 0.0, self.kept * classes
        part = np.zeros((TIMED, spec.channels, spec.height, spec.width), np.uint8)
        if self.public is not None:
            looked_at = len(self.public) * (1 + self.views)
            seconds += seconds_of(lambda: guidance.margins(part)) * looked_at / TIMED
        starting = StartingImages(part, np.zeros((classes, TIMED), np.int64))
        source, numbers = self._source(guidance, starting, ()), np.arange(TIMED)
        random = random_on(CPU, self.seed_public)
        seconds += seconds_of(lambda: source.made(0, numbers, random)) * total / TIMED
        found = matching.estimate(spec)
        if not self.generated:
            del found["training_time"]
        return {**found, "guiding_time": f"{seconds / 60:.0f} minutes for {total:,} images"}

    def fit(self, curator: Curator) -> ChosenImages:
        """Ask once, then guide; a killed run goes on with the images that it has made."""
        spec, matching = curator.spec, self._matching()
        # What is wrong with public images or a public model is said before the charge.
        self._check(spec)
        joint = joint_embedding(matching, spec)
        curator.open(self)
        answer, session = curator.sum("embedding"), Session.of(curator)
        embedding = Embedding(
            answer.total, answer.shared, answer.noise_std, spec, matching.config()
        )
        targets = joint.targets(embedding)
        guidance = Guidance.of(joint, targets, self.moment_weight, self.mirrored, session.device)
        generated = None
        if self.generated:
            generated = self._generated(matching.learn(embedding, session), session)
        images = self._guided(guidance, session, generated)
        return ChosenImages(spec, images, targets.counts, self.kept)

    def _matching(self) -> DPMEPF:
        """DP-MEPF, of which this is the sum and the generator."""
        return DPMEPF(
            steps=self.matching_steps,
            labeller_size=self.labeller_size,
            encoder_size=self.encoder_size,
            labeller_weight=self.labeller_weight,
            seed_public=self.seed_public,
        )

    def _check(self, spec: PublicSpec) -> None:
        check_at_hand(self.public_model, self.public_model_digest, self.name, spec)
        if not self.public_digest:
            return
        shape, fewest = (spec.channels, spec.height, spec.width), max(1, len(spec.classes))
        if self.public is None:
            raise UsageError(
                f"guided: the public images of digest {self.public_digest[:12]}… are not at hand. "
                "Pass them: --public (public=)."
            )
        if self.public.shape[1:] != shape or len(self.public) < fewest:
            raise UsageError(
                f"guided: public images {self.public.shape} must be {fewest} or more, one for each "
                f"class, of the private images' form, {shape}. --public (public=) brings them to "
                "it."
            )

    def _generated(self, generator: MEPFModel, session: Session) -> StartingImages:
        """What DP-MEPF's generator makes."""
        generator.move(session.device)
        classes = len(generator.counts)
        wanted = Sampling(self.generated * classes, self.seed_public, balance=True)

        def make(piece: int) -> NDArray[np.uint8]:
            numbers = np.arange(piece * SAMPLED, min((piece + 1) * SAMPLED, wanted.count))
            return np.concatenate([images for images, _ in generator.redraw(wanted, numbers)])

        pieces = -(-wanted.count // SAMPLED)
        images = np.concatenate(in_pieces("sampling", digest(self.config()), pieces, session, make))
        order = np.argsort(labels_for(generator.counts, wanted), kind="stable")
        return StartingImages(images, order.reshape(classes, self.generated))

    def _guided(
        self, guidance: Guidance, session: Session, generated: StartingImages | None
    ) -> NDArray[np.uint8]:
        """All images, class after class: chosen and generated ones pulled, or a denoiser's."""
        classes, starting = len(guidance.means), generated
        if self.public is not None:
            images = with_views(self.public, self.views, self.mirrored, self.seed_public)
            chosen = chosen_by(guidance.margins(images), self.kept - self.generated)
            starting = StartingImages(images, chosen)
            if generated is not None:
                both = np.concatenate([images, generated.images])
                numbers = np.hstack([chosen, len(images) + generated.chosen])
                starting = StartingImages(both, numbers)
        known: Sequence[NDArray[np.int64]] = ()
        if self.public_model is not None:
            known = public_classes(_denoiser(self.public_model), guidance, self.seed_public)
        there = 0 if starting is None else starting.chosen.shape[1]
        parts: list[tuple[Source, NDArray[np.int64]]] = []
        for start, count in ((starting, there), (None, self.kept - there)):
            pieces = -(-count // AT_ONCE)
            if pieces:
                source = self._source(guidance, start, known)
                # Each has images of all margins: they are compared with the mean of their class.
                parts += [(source, np.arange(part, count, pieces)) for part in range(pieces)]

        def make(piece: int) -> NDArray[np.uint8]:
            label, part = divmod(piece, len(parts))
            source, numbers = parts[part]
            seed = np.random.SeedSequence([self.seed_public, piece]).generate_state(1)
            made = source.made(label, numbers, random_on(session.device, int(seed[0])))
            pixels: NDArray[np.uint8] = to_bytes(2 * made - 1).cpu().numpy()
            return pixels

        done = in_pieces("guiding", digest(self.config()), classes * len(parts), session, make)
        return np.concatenate(done)

    def _source(
        self,
        guidance: Guidance,
        starting: StartingImages | None,
        known: Sequence[NDArray[np.int64]],
    ) -> Source:
        if self.public_model is None:
            assert starting is not None
            return Pulled(starting, guidance, self.pull_steps, self.length)
        model = _denoiser(self.public_model)
        return PublicDenoiser(
            Denoiser.of(moved(model.denoiser.network, guidance.device), model.parameterisation),
            known,
            guidance,
            self.sampling_steps,
            self.length,
            starting,
            self.start_noise,
        )


def _denoiser(public: PublicModel) -> DiffusionModel:
    assert isinstance(public.model, DiffusionModel)  # see PublicModel.check
    return public.model
