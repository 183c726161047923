"""One small honest release, made once; tests that damage it work on a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.methods import Moments
from sfumato.release import certificate as certificates
from sfumato.release.files import digests, list_files
from sfumato.synthesis import synthesize

Certificate = dict[str, Any]
Change = Callable[[Certificate], None]


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 40 images in folders; never changed."""
    place = tmp_path_factory.mktemp("honest")
    return synthesize(
        "digits",
        epsilon=2.0,
        method=Moments(coefficients=6),
        samples=40,
        out=place / "release",
        state=place / "state",
        quiet=True,
    )


@pytest.fixture
def release(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest release, to be damaged."""
    return Path(shutil.copytree(honest, tmp_path / "release"))


@pytest.fixture
def core(honest: Path) -> Certificate:
    """The honest release's statement of what was spent, to be changed."""
    return certificates.core_of(certificates.read_certificate(honest))


def rewrite(release: Path, change: Change | None = None, *, redigest: bool = True) -> None:
    """Change a release's certificate and, as somebody who knows how would, all digests in it."""
    path = release / certificates.NAME
    certificate = json.loads(path.read_bytes())
    if change is not None:
        change(certificate)
    if redigest:
        names, _ = list_files(release)
        certificate["files"] = digests(release, names)
        certificate["digest"] = certificates.own_digest(certificate)
    path.write_bytes(certificates.to_bytes(certificate))


@pytest.fixture(name="rewrite")
def _rewrite() -> Callable[..., None]:
    return rewrite


@pytest.fixture
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """Twelve grey 28x28 images of three classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 1, 28, 28), dtype=np.uint8), np.arange(12) % 3
