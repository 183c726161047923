"""Settings that hold for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.nn.functional import avg_pool2d

# No verdict depends on the machine's speed; in CI the examples are the same at every run.
settings.register_profile(
    "sfumato",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sfumato")

torch.set_num_threads(1)  # small tensors: threads cost more than they give
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and so do those of programs that tests start


NUMBERS = count()


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's ledger and private runs out of the user's state folder."""
    place = tmp_path_factory.getbasetemp() / f"state-{next(NUMBERS)}"  # made when it is needed
    monkeypatch.setenv("XDG_STATE_HOME", str(place))


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """Wait for no disk: no test cuts the power, and a call costs some milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def few_probes() -> Iterator[None]:
    """Probe a sum's function with some dozen images only, take few at once, measure no engine.

    That an image counts the same in any company, and which engine is the fastest, is tested where
    queries are; here it takes longer than what is tested.
    """
    from sfumato.privacy.answering import integer_sums, sampled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))
        for name, value in (("BATCH", 16), ("ROUNDS", 2), ("PROBED", 64)):
            patch.setattr(integer_sums, name, value)
        yield


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 400 digits, for what does not depend on how many there are."""
    from sfumato.data import load_labelled, open_images

    few = load_labelled(open_images("digits"))
    path = tmp_path_factory.mktemp("few") / "digits.npz"
    np.savez(path, images=few.images[:400, 0], labels=few.labels[:400])
    return path


@pytest.fixture(scope="session")
def fake_gpu() -> Iterator[ModuleType]:
    """``tests/harness/fake_gpu.py``: a GPU that is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "harness"))
        import fake_gpu

        yield fake_gpu


@pytest.fixture
def tile_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge releases by 49 cheap features, mean intensities of 4x4 tiles, not by an encoder."""
    from sfumato.evaluation import judging
    from sfumato.evaluation.extractors import Extractor

    def tiles(images: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(images[:, 0].float(), 4).flatten(1)

    extractor = Extractor("tiles", "0" * 64, tiles, 100, torch.device("cpu"))
    monkeypatch.setattr(judging, "load_extractor", lambda name, device: extractor)


@pytest.fixture(scope="session")
def digits_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 digits by the method moments at ε = 10; tests copy it before they change it."""
    from sfumato.synthesis import synthesize

    folder = tmp_path_factory.mktemp("released")
    return synthesize(
        "digits",
        epsilon=10.0,
        out=folder / "digits",
        method="moments",
        options={"coefficients": 40},
        samples=600,
        state=folder / "state",
        quiet=True,
    )


@pytest.fixture(scope="session")
def embedded_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 digits by a method of somebody's own that releases its noisy answer as an embedding."""
    from dataclasses import dataclass

    from sfumato.methods.mepf.embedding import Embedding
    from sfumato.methods.moments.method import Moments
    from sfumato.methods.moments.model import MomentModel
    from sfumato.privacy import Curator
    from sfumato.synthesis import synthesize

    @dataclass(frozen=True)
    class EmbeddedModel(MomentModel):
        embedding: Embedding | None = None

    @dataclass(frozen=True)
    class Embedded(Moments):
        name = "embedded"

        def fit(self, curator: Curator) -> MomentModel:
            curator.open(self)
            answer, spec = curator.sum("moments"), curator.spec
            model = self.learn(answer, spec)
            embedding = Embedding(
                answer.total, answer.shared, answer.noise_std, spec, self.config()
            )
            return EmbeddedModel(spec, model.counts, model.gaussians, model.coefficients, embedding)

    place = tmp_path_factory.mktemp("embedded")
    return synthesize(
        "digits",
        epsilon=2.0,
        method=Embedded(coefficients=6),
        samples=20,
        out=place / "release",
        state=place / "state",
        quiet=True,
    )
