"""DataLens: teachers inside the curator vote on a student's images with compressed gradients.

Wang et al., CCS 2021, arXiv 2103.11109. Each step asks for one noisy sum of votes on a fixed set of
generated images; the student learns to draw them where the votes point. Everything after the sum is
post-processing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.base import Method, Settings, check_rules
from sfumato.methods.later import later
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.vote import VoteQuery

if TYPE_CHECKING:
    from sfumato.methods.model import GeneratorModel
    from sfumato.privacy import Curator

Kind = Literal["nearest", "network"]
Coordinates = Literal["cosine", "pixels", "random"]
Vote = Literal["batch", "image"]

LATENT = 16


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
    model = later("sfumato.methods.model:GeneratorModel")
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
        images = self.images(spec)
        dimension = spec.channels * spec.height * spec.width
        if self.coordinates != "pixels":
            dimension = min(self.dimension, dimension)
        vote = VoteQuery(
            "votes",
            images * dimension,
            min(self.entries, images * dimension),
            self.voters(spec),
            self.steps,
            images if self.vote == "image" else 1,
            self.stochastic,
            describes={"kind": self.kind},
        )
        return [vote]

    def voters(self, spec: PublicSpec) -> int:
        """N, how many teachers vote.

        Raises:
            UsageError: neither their number nor that of records is declared.
        """
        if self.teachers is None and spec.declared_size is None:
            raise UsageError(
                "datalens: state the number of teachers (its option teachers), or the number of "
                "records (--declared-size, declared_size=), which is then taken; the true number "
                "is private."
            )
        return self.teachers or spec.declared_size or 1

    def images(self, spec: PublicSpec) -> int:
        """How many generated images a vote is on."""
        return self.images_per_class * max(len(spec.classes), 1)

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        from sfumato.methods.datalens.student import seconds_of_votes

        minutes = seconds_of_votes(self, spec) * self.steps / 60
        return {"training_time": f"{minutes:,.0f} minutes or more for {self.steps:,} votes"}

    def fit(self, curator: Curator) -> GeneratorModel:
        """Ask for votes and let the student follow them; a killed run goes on where it was."""
        from sfumato.methods.datalens.student import train

        return train(self, curator)
