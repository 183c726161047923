"""What are DP-MEPF's images worth where two classes are alike and records are few?

Question: medical data often have two classes that differ in a detail, some thousands of records,
and one class that is rarer. Here these are two kinds of garment of Fashion-MNIST, 1,214 records of
the one and 3,494 of the other, at ε = 5. A student (the protocol's CNN with half its channels,
60,000 passes) learns from 5,000 generated images, named by the release's labeller, and is judged by
its area under the ROC curve on 1,500 other training records of each kind, never on the test set.
Beside it: the labeller, a student of the real records, and the weight of what tells classes apart.

    python benchmarks/methods/mepf_like_classes.py [--steps 500] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mepf_training_sets import AT_ONCE, Images, Labels, Set, sampled, student
from sklearn.metrics import roc_auc_score

from sfumato.data import load_labelled, open_images
from sfumato.data.memory import from_arrays
from sfumato.evaluation.training import scaled
from sfumato.features import to_unit
from sfumato.methods import DPMEPF
from sfumato.privacy import Budget, Curator

PAIRS = {"pullover, coat": (2, 4), "T-shirt, shirt": (0, 6)}
RECORDS, JUDGED, MADE, PASSES = (1214, 3494), 1500, 5000, 60_000
WEIGHTS, SEEDS = (0.0, 2.0), (0, 1)


def parts(images: Images, labels: Labels, pair: tuple[int, int]) -> tuple[Set, Set]:
    """Records to learn from and others to judge on, of two classes, called 0 and 1."""
    found: list[list[Images]] = [[], []]
    for label, count in zip(pair, RECORDS, strict=True):
        of_class = images[np.random.default_rng(3).permutation(np.flatnonzero(labels == label))]
        found[0].append(of_class[:count])
        found[1].append(of_class[count : count + JUDGED])
    learnt, judged = (
        (np.concatenate(part), np.repeat([0, 1], [len(images) for images in part]))
        for part in found
    )
    return learnt, judged


@torch.no_grad()
def area(scores: Callable[[torch.Tensor], torch.Tensor], judged: Set) -> float:
    """Area under the ROC curve of what scores two classes, of images uint8 ``[b, c, h, w]``."""
    images = torch.from_numpy(judged[0]).split(AT_ONCE)
    found = torch.cat([scores(part) for part in images])
    return float(roc_auc_score(judged[1], found[:, 1] - found[:, 0]))


def taught(images: Images, labels: Labels, judged: Set) -> list[float]:
    """The areas of students of a training set, one for each seed."""
    students = [student(images, labels, PASSES, seed) for seed in SEEDS]
    return [area(lambda part, s=s: s(scaled(part)), judged) for s in students]


def released(learnt: Set, epsilon: float, steps: int, weight: float) -> Any:
    """A model of the default settings, but for steps and weight."""
    records = from_arrays(*learnt, classes=2, name="two kinds")
    with tempfile.TemporaryDirectory() as state:
        curator = Curator(records, Budget(epsilon, 1e-5), state=Path(state), quiet=True)
        return DPMEPF(steps=steps, class_weight=weight).fit(curator)


def main() -> None:
    """Print a line for each pair and training set."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--epsilon", type=float, default=5.0)
    asked.add_argument("--steps", type=int, default=500)
    asked.add_argument("--json", type=Path)
    said = asked.parse_args()
    data, found = load_labelled(open_images("fashion-mnist:train")), {}
    for pair, classes in PAIRS.items():
        learnt, judged = parts(data.images, data.labels, classes)

        def note(name: str, areas: list[float], pair: str = pair) -> None:
            found[f"{pair}: {name}"] = areas
            print(f"{pair}: {name}: " + ", ".join(f"{area:.3f}" for area in areas), flush=True)

        note("real records", taught(*learnt, judged))
        for weight in WEIGHTS:
            model = released(learnt, said.epsilon, said.steps, weight)
            images, named, _ = sampled(model, 0, MADE)
            note(f"generated, class_weight={weight:g}", taught(images, named, judged))
            by_labeller = area(lambda part, m=model: m.labeller.scores(to_unit(part)), judged)
            note(f"labeller, class_weight={weight:g}", [by_labeller])
    if said.json:
        said.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
