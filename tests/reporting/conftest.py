"""Releases with hostile class names and figures to show, made once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.evaluation import Evaluation
from sfumato.evaluation.evaluate import FidelityScore, MemorisationScore, Setting
from sfumato.evaluation.neighbours import Memorisation
from sfumato.evaluation.utility import Run, Spread, UtilityScore
from sfumato.methods import Moments
from sfumato.release import read_certificate
from sfumato.synthesis import synthesize

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror="alert(2)">',
    "\" autofocus onfocus='alert(3)' href=http://evil.example/",
    "{{ 7 * 7 }}{% raw %} & </style></title></dialog>",
    "W" * 200,
)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 private colour images of four classes."""
    path = tmp_path_factory.mktemp("private") / "images.npz"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (240, 28, 28, 3), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(240) % 4)
    return path


@pytest.fixture(scope="session")
def hostile(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release at ε = 10 whose class names attack the page; never changed."""
    return _release(images, tmp_path_factory.mktemp("hostile"), epsilon=10.0)


@pytest.fixture(scope="session")
def stamped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose noise protects nobody; never changed."""
    return _release(images, tmp_path_factory.mktemp("stamped"), epsilon=1.0, insecure_seed=3)


def _release(images: Path, place: Path, epsilon: float, insecure_seed: int | None = None) -> Path:
    return synthesize(
        images,
        epsilon=epsilon,
        method=Moments(coefficients=6),
        classes=list(HOSTILE),
        samples=120,
        declared_size=250,
        out=place / "release",
        state=place / "state",
        insecure_seed=insecure_seed,
        quiet=True,
    )


@pytest.fixture
def evaluation(hostile: Path) -> Evaluation:
    """Private scores of the hostile release: one classifier in order, one that diverged."""
    classes = tuple(read_certificate(hostile)["classes"])
    setting = Setting("efficientnet-lite0", "ab" * 32, 60, 60, "uint8", None)
    memorised = MemorisationScore(Memorisation(0.0125, 3.5, 0.4875, 0.0321), 7, 200, setting)
    return Evaluation(
        private=True,
        classes=classes,
        utility=(_score("logistic", 0.8125), _score("mlp", None)),
        baseline=(_score("logistic", 0.9375),),
        fidelity=(FidelityScore("Fréchet distance", 123.456, 0.5, "lower", "exact", setting),),
        memorisation=memorised,
    )


def _score(name: str, accuracy: float | None) -> UtilityScore:
    spread = None if accuracy is None else Spread(accuracy, 0.015, 2)
    run = Run(0, None, None if spread else "loss", accuracy or 0.25, 0.25, (None,) * 4, None)
    recall = () if spread is None else (spread, spread, None, spread)
    return UtilityScore(name, 60, 60, "uint8", "float32", (run, run), spread, spread, recall, None)


@pytest.fixture
def metrics(evaluation: Evaluation, tmp_path: Path) -> Path:
    """The same scores as a file."""
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(evaluation.to_dict()))
    return path
