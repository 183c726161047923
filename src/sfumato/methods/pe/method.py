"""Private Evolution: public candidates, and private images that vote for those nearest to them.

Lin, Gopi, Kulkarni, Nori, Yekhanin, arXiv 2305.15560; survivors stay among the candidates, as in
Xie et al., arXiv 2403.01749. Nothing is trained: each iteration asks one noisy histogram, keeps the
candidates that got votes and makes variations of them from a public source. What differs from the
papers is written in ``docs/methods/pe.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features import LARGEST_SIZE, PooledCoordinates, public_patches, to_unit
from sfumato.methods.base import Method, check_rules, digest_of, in_proportion
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.pe.drawn_text import DrawnText
from sfumato.methods.pe.nearness import Coordinates, LowFrequencies, Near, features_of, placed
from sfumato.methods.pe.public_images import PublicImages
from sfumato.methods.pe.variations import Candidates, Variations
from sfumato.privacy import Curator, HistogramQuery, NearestQuery, Query, distributed
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import stage

Source = Literal["images", "text"]

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
class Generation:
    """The candidates of an iteration and what they got.

    ``step`` iterations are done; ``labels`` int64 ``[n]``; ``votes`` float64 ``[n]``, noisy, less
    the threshold, at least 0; ``counts`` float64 ``[classes]``, noisy class sizes or ones.
    """

    spec: PublicSpec
    source: Variations
    step: int
    candidates: Candidates
    labels: NDArray[np.int64]
    votes: NDArray[np.float64]
    counts: NDArray[np.float64]


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
    model = ChosenImages
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
        if self.public is not None and not self.public_digest:
            object.__setattr__(self, "public_digest", digest_of(self.public))

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"kept": self.kept}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """A histogram of votes an iteration and, before them, one of class sizes."""
        classes, coordinates = max(1, len(spec.classes)), self._coordinates(spec)
        about: dict[str, Any] = {"near": self.near}
        if isinstance(coordinates, PooledCoordinates):
            encoder = coordinates.features.encoder
            about |= {"encoder": encoder.name, "encoder_digest": encoder.digest}
            about |= {"axes_digest": coordinates.digest}

        def features(images: Tensor) -> Tensor:
            return placed(coordinates, images.device)(to_unit(images))

        votes = NearestQuery(
            "votes",
            features,
            coordinates.width,
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
        *_, last = self.generations(curator)
        return self.released(last)

    def generations(self, curator: Curator) -> Iterator[Generation]:
        """What the votes of each iteration chose from, the newest last."""
        plan, spec = curator.open(self), curator.spec
        labels = np.repeat(np.arange(max(1, len(spec.classes))), self.candidates)
        counts = np.ones(labels[-1] + 1)
        if any(query.name == "sizes" for query in plan.queries):
            counts = curator.histogram("sizes").total[0]
        coordinates = placed(self._coordinates(spec), curator.device)
        source = self._source(spec, coordinates)
        path = curator.run_folder / "candidates.safetensors"
        step, candidates = _restored(path) or (0, source.first(labels, self._random(0)))
        with stage("evolution", curator.quiet, step / self.iterations) as report:
            while step < self.iterations:
                shown = self._shown(candidates, source, coordinates, step)
                answer = curator.nearest("votes", step, shown, labels if spec.classes else None)
                votes = np.maximum(answer.total[0] - self.threshold * answer.noise_std, 0)
                step += 1
                generation = Generation(spec, source, step, candidates, labels, votes, counts)
                yield generation
                if step < self.iterations:
                    candidates = self._offspring(generation, self.candidates)
                    if distributed.is_first():
                        _save(path, step, candidates)
                report(step / self.iterations)

    def released(self, generation: Generation) -> ChosenImages:
        """The model of what a generation's votes chose: post-processing."""
        images = self._offspring(generation, self.kept).images
        return ChosenImages(generation.spec, images, generation.counts, self.kept)

    def _coordinates(self, spec: PublicSpec) -> Coordinates:
        if self.near == "pixels":
            return LowFrequencies(spec)
        return PooledCoordinates.of(self.encoder, self.encoder_size, self.axes)

    def _source(self, spec: PublicSpec, coordinates: Coordinates) -> Variations:
        if self.source == "text":
            return DrawnText(spec)
        images = public_patches(spec) if self.public is None else self.public
        shape = (spec.channels, spec.height, spec.width)
        if images.shape[1:] != shape or len(images) < 2:
            raise UsageError(
                f"pe: public images {images.shape} must be two or more of the private images' "
                f"form, {shape}. --public (public=) brings them "
                "to it."
            )
        return PublicImages(images, coordinates)

    def _shown(
        self, candidates: Candidates, source: Variations, coordinates: Coordinates, step: int
    ) -> NDArray[np.float32]:
        """The candidates' features, or the mean of those of their variations (look-ahead)."""
        if not self.look_ahead:
            return features_of(candidates.images, coordinates).numpy()
        rng, degree = self._random(step, 1), self._degree(step)
        total = torch.zeros(len(candidates.images), coordinates.width)
        for _ in range(self.look_ahead):
            varied = source.vary(candidates, degree, rng)
            total += features_of(varied.images, coordinates)
        return (total / self.look_ahead).numpy()

    def _offspring(self, generation: Generation, each: int) -> Candidates:
        """``each`` candidates of every label by their votes, varied where chosen before."""
        numbers = chosen_by(generation.votes, generation.labels, each)
        chosen = generation.candidates.take(numbers)
        again = np.ones(len(numbers), np.bool_)
        again[np.unique(numbers, return_index=True)[1]] = False
        if not again.any():
            return chosen
        step, parents = generation.step, chosen.take(np.flatnonzero(again))
        varied = generation.source.vary(parents, self._degree(step), self._random(step))
        images, traits = chosen.images.copy(), chosen.traits.copy()
        images[again], traits[again] = varied.images, varied.traits
        return Candidates(images, traits)

    def _degree(self, step: int) -> float:
        share = step / self.iterations
        return self.first_degree + share * (self.last_degree - self.first_degree)

    def _random(self, step: int, purpose: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed_public, step, purpose])


def chosen_by(
    votes: NDArray[np.float64], labels: NDArray[np.int64], each: int
) -> NDArray[np.int64]:
    """Numbers of ``each`` candidates of every label, in proportion to their votes.

    arXiv 2305.15560, algorithm 1, without the chance of drawing: a candidate is chosen as often as
    its share says, shares rounded by largest remainder; all alike where a label has no votes.
    """
    found = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        found.append(np.repeat(places, in_proportion(votes[places], each)))
    return np.concatenate(found)


def _save(path: Path, step: int, candidates: Candidates) -> None:
    images, traits = torch.from_numpy(candidates.images), torch.from_numpy(candidates.traits)
    store(path, sealed({"step": torch.tensor(step), "images": images, "traits": traits}))


def _restored(path: Path) -> tuple[int, Candidates] | None:
    if not path.exists():
        return None
    state = unsealed(path, "Restore the file, or pass --fresh (fresh=True) to charge a new run.")
    return int(state["step"]), Candidates(state["images"].numpy(), state["traits"].numpy())
