"""DataLens: teachers inside the curator vote on a student's images with compressed gradients.

Wang et al., CCS 2021, arXiv 2103.11109. Each step asks for one noisy sum of votes on a fixed set of
generated images; the student learns to draw them where the votes point. Everything after the sum is
post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, random_on
from sfumato.errors import UsageError
from sfumato.features.basis import dct_basis
from sfumato.methods.base import Method, Settings, check_rules
from sfumato.methods.datalens.teachers import NearestTeachers, NetworkTeachers
from sfumato.methods.estimate import seconds_of
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session, Training
from sfumato.privacy import (
    Curator,
    GeneratedBatch,
    Query,
    TeacherBatches,
    Teachers,
    VoteQuery,
)

Kind = Literal["nearest", "network"]
Coordinates = Literal["cosine", "pixels", "random"]
Vote = Literal["batch", "image"]

LATENT = 16
STUDENT_BATCH = 64
AT_ONCE = 1000
"""Images that the student makes together where nothing is learnt from them."""


def _cpu(spec: PublicSpec) -> Settings:
    """The defaults, which are sized for two cores."""
    return {}


def _paper(spec: PublicSpec) -> Settings:
    """The paper's teachers and votes."""
    images = 3 * max(len(spec.classes), 1)
    return {
        "teachers": 4000,
        "kind": "network",
        "steps": 100,
        "images_per_class": 3,
        "entries": 200 * images,
        "coordinates": "pixels",
        "vote": "image",
        "stochastic": True,
        "threshold": 0.5,
    }


CITATION = """\
@inproceedings{wang2021datalens,
  title     = {{DataLens}: Scalable Privacy Preserving Training via Gradient Compression and
               Aggregation},
  author    = {Wang, Boxin and Wu, Fan and Long, Yunhui and Rimanic, Luka and Zhang, Ce and
               Li, Bo},
  booktitle = {ACM SIGSAC Conference on Computer and Communications Security},
  year      = {2021},
  note      = {arXiv:2103.11109}
}"""


@dataclass(frozen=True)
class DataLens(Method):
    """Teach a generator by noisy sums of teachers' top-k signs.

    Args:
        teachers: N, the number of shards; the declared size by default.
        kind: ``nearest`` teachers point to their nearest records; ``network`` teachers are the
            paper's discriminators.
        steps: votes.
        images_per_class: generated images that each vote is on, for each class.
        entries: k, signs in one teacher's vote over all images of a step.
        coordinates: what is voted on: ``cosine`` coefficients of images, ``pixels``, or ``random``
            projections (as G-PATE's, arXiv 1906.09338).
        dimension: number of coefficients or projections of an image.
        vote: take the k entries over the whole ``batch``, or equally many in each ``image``, which
            nearest teachers cannot, for they speak of a few images each.
        stochastic: sample signs, the more surely the larger the entry.
        threshold: β; sums within β·N are taken as 0 and others as their sign (the paper's). None
            uses the noisy sums themselves.
        step_size: γ of the first step, in units of a coordinate; it falls to zero linearly.
        student_steps: the student's steps after each vote.
        student_rate: of Adam, of the student.
        width: channels of the student's finest level.
        blend: how far a taught code may move towards another of its class, in [0, 1].
        seed_public: public seed of the student.

    Guarantee: one :class:`VoteQuery`; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "datalens"
    title = "DataLens: teachers vote on generated images with compressed gradients"
    model = GeneratorModel
    presets: ClassVar = {"cpu": _cpu, "paper": _paper}
    short: ClassVar = {"steps": 5, "teachers": 50}
    citation = CITATION

    teachers: int | None = None
    kind: Kind = "nearest"
    steps: int = 60
    images_per_class: int = 20
    entries: int = 24
    coordinates: Coordinates = "cosine"
    dimension: int = 64
    vote: Vote = "batch"
    stochastic: bool = False
    threshold: float | None = None
    step_size: float = 1.0
    student_steps: int = 20
    student_rate: float = 2e-3
    width: int = 16
    blend: float = 0.5
    seed_public: int = 0

    def __post_init__(self) -> None:
        rules = {
            "teachers": self.teachers is None or self.teachers >= 1,
            "kind": self.kind in get_args(Kind),
            "steps": self.steps >= 1,
            "images_per_class": self.images_per_class >= 1,
            "entries": self.entries >= 1,
            "coordinates": self.coordinates in get_args(Coordinates),
            "dimension": self.dimension >= 1,
            "vote": self.vote in get_args(Vote)
            and (self.vote == "batch" or self.kind == "network"),
            "threshold": self.threshold is None or 0 <= self.threshold < 1,
            "step_size": self.step_size > 0,
            "student_steps": self.student_steps >= 1,
            "student_rate": self.student_rate > 0,
            "width": self.width >= 4 and self.width % 4 == 0,
            "blend": 0 <= self.blend <= 1,
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.width, "latent": LATENT, "blend": self.blend}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """The votes.

        Raises:
            UsageError: neither the number of teachers nor that of records is declared.
        """
        images = self._images(spec)
        dimension = spec.channels * spec.height * spec.width
        if self.coordinates != "pixels":
            dimension = min(self.dimension, dimension)
        vote = VoteQuery(
            "votes",
            images * dimension,
            min(self.entries, images * dimension),
            self._teachers(spec),
            self.steps,
            images if self.vote == "image" else 1,
            self.stochastic,
            describes={"kind": self.kind},
        )
        return [vote]

    def _teachers(self, spec: PublicSpec) -> int:
        if self.teachers is None and spec.declared_size is None:
            raise UsageError(
                "datalens: state the number of teachers (its option teachers), or the number of "
                "records (--declared-size, declared_size=), which is then taken; the true number "
                "is private."
            )
        return self.teachers or spec.declared_size or 1

    def _images(self, spec: PublicSpec) -> int:
        return self.images_per_class * max(len(spec.classes), 1)

    def _labels(self, spec: PublicSpec) -> Tensor:
        return torch.arange(self._images(spec)) % max(len(spec.classes), 1)

    def basis(self, spec: PublicSpec) -> Tensor | None:
        """Orthonormal float32 ``[d, pixels]`` that is voted in; None for pixels."""
        if self.coordinates == "pixels":
            return None
        if self.coordinates == "cosine":
            return torch.from_numpy(dct_basis(spec, self.dimension))
        pixels = spec.channels * spec.height * spec.width
        random = random_on(CPU, self.seed_public)
        normal = torch.randn(pixels, min(self.dimension, pixels), generator=random)
        return torch.linalg.qr(normal).Q.T.contiguous()

    def recipe(self, spec: PublicSpec) -> Teachers:
        """What a teacher does."""
        basis, classes = self.basis(spec), max(len(spec.classes), 1)
        if self.kind == "network":
            return NetworkTeachers(spec.height, spec.channels, classes, basis)
        pixels = spec.channels * spec.height * spec.width
        return NearestTeachers(torch.eye(pixels) if basis is None else basis)

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        teachers, count = self.recipe(spec), self._images(spec)
        random = random_on(CPU, 0)
        group = min(teachers.at_once, self._teachers(spec))
        shape = (group, teachers.batch, spec.channels, spec.height, spec.width)
        labels = torch.zeros(shape[:2], dtype=torch.int64)
        there = torch.ones(shape[:2], dtype=torch.bool)
        shard = TeacherBatches(torch.zeros(shape, dtype=torch.uint8), labels, there)
        memory = teachers.begin(group, random)
        asked = GeneratedBatch(torch.zeros(count, *shape[2:]), self._labels(spec), 0.0)
        draws = teachers.draws(group, asked, random)
        seconds = seconds_of(lambda: teachers.vote(memory, shard, asked, *draws))
        minutes = seconds * self._teachers(spec) / group * self.steps / 60
        return {"training_time": f"{minutes:,.0f} minutes or more for {self.steps:,} votes"}

    def fit(self, curator: Curator) -> GeneratorModel:
        """Ask for votes and let the student follow them; a killed run goes on where it was."""
        curator.open(self)
        spec, session = curator.spec, Session.of(curator)
        device = session.device
        teachers, basis = self.recipe(spec), self.basis(spec)
        basis = None if basis is None else basis.to(device)
        torch.manual_seed(self.seed_public)
        student = make_generator(spec, self.width, LATENT).to(device)
        random = random_on(device, self.seed_public)
        labels = self._labels(spec).to(device)
        codes = torch.randn(len(labels), LATENT, generator=random, device=device)
        optimizer = torch.optim.Adam(student.parameters(), self.student_rate, (0.9, 0.99))
        training = Training(session, {"student": student}, optimizer, random)
        parameters = list(student.parameters())
        part = (min(STUDENT_BATCH, len(labels)),)

        def advance(step: int) -> None:
            with torch.no_grad():
                # In parts: of a thousand classes there are thousands of images.
                parts = zip(codes.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
                images = (torch.cat([student(*part) for part in parts]) + 1) / 2
            generated = GeneratedBatch(images, labels, step / self.steps)
            total = curator.vote("votes", step, teachers, generated)
            size = self.step_size * (1 - step / self.steps)
            moves = self.direction(total.to(device, torch.float32), spec) * size
            moves = moves if basis is None else moves @ basis
            target = (images + moves.view_as(images)).clamp(0, 1) * 2 - 1
            for _ in range(self.student_steps):
                some = torch.randint(len(labels), part, generator=random, device=device)
                loss = (student(codes[some], labels[some]) - target[some]).square().mean()
                training.along(parameters, torch.autograd.grad(loss, parameters))

        training.run("training", self.steps, advance, lambda done: curator.forget("votes", done))
        counts = np.ones(max(len(spec.classes), 1))
        return GeneratorModel(spec, student.eval(), self.width, counts, codes, self.blend)

    def direction(self, total: Tensor, spec: PublicSpec) -> Tensor:
        """Where each image should go, float32 ``[images, coordinates]`` within ±1."""
        sums, teachers = total.view(self._images(spec), -1), self._teachers(spec)
        if self.threshold is not None:
            return sums.sign() * (sums.abs() > self.threshold * teachers)
        # A nearest teacher speaks of few images only, a network speaks of all.
        voters = teachers if self.kind == "network" else teachers / len(sums)
        return (sums / voters).clamp(-1, 1)
