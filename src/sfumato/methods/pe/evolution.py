"""Private Evolution's iterations: candidates shown, voted for, and varied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.features import public_patches
from sfumato.features.pooled import directions
from sfumato.methods.base import in_proportion
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.pe.drawn_text import DrawnText
from sfumato.methods.pe.nearness import Coordinates, coordinates_of, placed
from sfumato.methods.pe.public_images import PublicImages
from sfumato.methods.pe.variations import Candidates, Variations
from sfumato.methods.public_model import check_form
from sfumato.privacy import Curator, distributed
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import stage

if TYPE_CHECKING:
    from sfumato.methods.pe.method import PrivateEvolution


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


def generations(method: PrivateEvolution, curator: Curator) -> Iterator[Generation]:
    """What the votes of each iteration chose from, the newest last."""
    plan, spec = curator.open(method), curator.spec
    labels = np.repeat(np.arange(max(1, len(spec.classes))), method.candidates)
    counts = np.ones(labels[-1] + 1)
    if any(query.name == "sizes" for query in plan.queries):
        counts = curator.histogram("sizes").total[0]
    coordinates = placed(coordinates_of(method, spec), curator.device)
    source = _source(method, spec, coordinates)
    path = curator.run_folder / "candidates.safetensors"
    step, candidates = _restored(path) or (0, source.first(labels, _random(method, 0)))
    with stage("evolution", curator.quiet, step / method.iterations) as report:
        while step < method.iterations:
            shown = _shown(method, candidates, source, coordinates, step)
            answer = curator.nearest("votes", step, shown, labels if spec.classes else None)
            votes = np.maximum(answer.total[0] - method.threshold * answer.noise_std, 0)
            step += 1
            generation = Generation(spec, source, step, candidates, labels, votes, counts)
            yield generation
            if step < method.iterations:
                candidates = _offspring(method, generation, method.candidates)
                if distributed.is_first():
                    _save(path, step, candidates)
            report(step / method.iterations)


def released(method: PrivateEvolution, generation: Generation) -> ChosenImages:
    """The model of what a generation's votes chose: post-processing."""
    images = _offspring(method, generation, method.kept).images
    return ChosenImages(generation.spec, images, generation.counts, method.kept)


def _source(method: PrivateEvolution, spec: PublicSpec, coordinates: Coordinates) -> Variations:
    if method.source == "text":
        return DrawnText(spec)
    images = public_patches(spec) if method.public is None else method.public
    check_form(images, method.name, spec, fewest=2)
    return PublicImages(images, coordinates)


def _shown(
    method: PrivateEvolution,
    candidates: Candidates,
    source: Variations,
    coordinates: Coordinates,
    step: int,
) -> NDArray[np.float32]:
    """The candidates' features, or the mean of those of their variations (look-ahead)."""
    if not method.look_ahead:
        return directions(candidates.images, coordinates).numpy()
    rng, degree = _random(method, step, 1), _degree(method, step)
    total = torch.zeros(len(candidates.images), coordinates.width)
    for _ in range(method.look_ahead):
        varied = source.vary(candidates, degree, rng)
        total += directions(varied.images, coordinates)
    return (total / method.look_ahead).numpy()


def _offspring(method: PrivateEvolution, generation: Generation, each: int) -> Candidates:
    """``each`` candidates of every label by their votes, varied where chosen before."""
    numbers = chosen_by(generation.votes, generation.labels, each)
    chosen = generation.candidates.take(numbers)
    again = np.ones(len(numbers), np.bool_)
    again[np.unique(numbers, return_index=True)[1]] = False
    if not again.any():
        return chosen
    step, parents = generation.step, chosen.take(np.flatnonzero(again))
    varied = generation.source.vary(parents, _degree(method, step), _random(method, step))
    images, traits = chosen.images.copy(), chosen.traits.copy()
    images[again], traits[again] = varied.images, varied.traits
    return Candidates(images, traits)


def _degree(method: PrivateEvolution, step: int) -> float:
    share = step / method.iterations
    return method.first_degree + share * (method.last_degree - method.first_degree)


def _random(method: PrivateEvolution, step: int, purpose: int = 0) -> np.random.Generator:
    return np.random.default_rng([method.seed_public, step, purpose])


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
    state = unsealed(path)
    return int(state["step"]), Candidates(state["images"].numpy(), state["traits"].numpy())
