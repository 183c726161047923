"""Private Evolution: public candidates, and private images that vote for those nearest to them.

Lin, Gopi, Kulkarni, Nori, Yekhanin, arXiv 2305.15560; survivors stay among the candidates, as in
Xie et al., arXiv 2403.01749. Nothing is trained: each iteration asks one noisy histogram, keeps the
candidates that got votes and makes variations of them from a public source. What differs from the
papers is written in ``docs/methods/pe.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.features.shipped import LARGEST_SIZE, ShippedCoordinates, encoder_digest
from sfumato.methods.base import Method, check_rules
from sfumato.methods.later import later
from sfumato.methods.public_model import note_digests
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.histogram import HistogramQuery
from sfumato.privacy.queries.nearest import NearestQuery

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.methods.chosen_images import ChosenImages
    from sfumato.privacy import Curator

Source = Literal["images", "text"]
Near = Literal["encoder", "pixels"]

COSINES = 60
"""Cosine coefficients in which images are near as pixels, but for the mean."""


CITATION = """\
@inproceedings{lin2024differentially,
  title     = {Differentially Private Synthetic Data via Foundation Model {API}s 1: Images},
  author    = {Lin, Zinan and Gopi, Sivakanth and Kulkarni, Janardhan and Nori, Harsha and
               Yekhanin, Sergey},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2305.15560}
}"""


@dataclass(frozen=True)
class PrivateEvolution(Method):
    """Let private images vote for public candidates, again and again, and release the chosen ones.

    Args:
        source: where candidates come from: public ``images`` (``--public``; patches of photographs
            that ship with scikit-learn by default), or ``text`` and shapes, in fonts found here.
        iterations: T, how many histograms are asked for.
        candidates: candidates of each class in an iteration.
        look_ahead: k, a candidate stands for the mean features of so many variations of it; 0: for
            its own features.
        first_degree, last_degree: how far variations go, in [0, 1], from first to last iteration.
        threshold: H, votes that count as none, in standard deviations of their noise.
        size_noise: noise of a first histogram of class sizes, relative to that of the votes; 0
            asks none, and all classes get equally many images.
        kept: images of each class in the released model.
        near: where candidates are near: in the space of an ``encoder``, for photographs, or of
            ``pixels``, blurred, for centred shapes such as digits.
        encoder, encoder_size, axes: of the encoder's space; see :class:`PooledCoordinates`.
        seed_public: public seed of candidates and variations; privacy noise has none.
        public: uint8 ``[n, c, h, w]`` public images.

    Guarantee: one :class:`NearestQuery` and, for class sizes, one :class:`HistogramQuery`;
    everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "pe"
    title = "Private Evolution: private images vote for public candidates; nothing is trained"
    model = later("sfumato.methods.chosen_images:ChosenImages")
    short: ClassVar = {"kept": 10}
    card = (
        "Each image is a public image, or was drawn by a program, and private images voted for it. "
        "Licences of the public images apply to it."
    )
    citation = CITATION

    source: Source = "images"
    iterations: int = 10
    candidates: int = 200
    look_ahead: int = 0
    first_degree: float = 0.6
    last_degree: float = 0.1
    threshold: float = 1.0
    size_noise: float = 5.0
    kept: int = 1000
    near: Near = "encoder"
    encoder: str = "efficientnet-lite0"
    encoder_size: int = 64
    axes: int = 600
    seed_public: int = 0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "source": self.source in get_args(Source),
            "iterations": self.iterations >= 1,
            "candidates": self.candidates >= 2,
            "look_ahead": self.look_ahead >= 0,
            "first_degree": 0 <= self.first_degree <= 1,
            "last_degree": 0 <= self.last_degree <= 1,
            "threshold": self.threshold >= 0,
            "size_noise": self.size_noise >= 0,
            "kept": self.kept >= 1,
            "near": self.near in get_args(Near),
            "encoder_size": 32 <= self.encoder_size <= LARGEST_SIZE,
            "axes": self.axes >= 1,
        }
        check_rules(self, rules)
        note_digests(self)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"kept": self.kept}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """A histogram of votes an iteration and, before them, one of class sizes."""
        classes = max(1, len(spec.classes))
        about: dict[str, Any] = {"near": self.near}
        width = min(COSINES, spec.channels * spec.height * spec.width - 1)
        if self.near == "encoder":
            space = ShippedCoordinates(self.encoder, self.encoder_size, self.axes)
            about |= {"encoder": self.encoder, "encoder_digest": encoder_digest()}
            about |= {"axes_digest": space.digest}
            width = space.width

        def features(images: Tensor) -> Tensor:
            from sfumato.features import to_unit
            from sfumato.methods.pe.nearness import coordinates_of, placed

            return placed(coordinates_of(self, spec), images.device)(to_unit(images))

        votes = NearestQuery(
            "votes",
            features,
            width,
            classes * self.candidates,
            self.iterations,
            describes=about,
        )
        if not self.size_noise or classes == 1:
            return [votes]
        sizes = HistogramQuery(
            "sizes", lambda images, labels: labels, classes, self.size_noise, {"of": "classes"}
        )
        return [sizes, votes]

    def fit(self, curator: Curator) -> ChosenImages:
        """Ask a histogram an iteration; a killed run goes on with the candidates that it had."""
        from sfumato.methods.pe.evolution import generations, released

        *_, last = generations(self, curator)
        return released(self, last)
