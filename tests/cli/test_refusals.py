"""What would stop a run late stops it before the charge; what changed under a run is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sfumato import synthesis

Run = Callable[..., Result]
QUICK = ["--epsilon", 1, "--method", "moments", "--set", "coefficients=6", "--samples", 10]


def test_a_place_that_takes_no_release_is_refused_before_the_charge(
    run: Run, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "out", tmp_path / ("x" * 250)]
    if os.geteuid():  # nothing is closed to root
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed" / "out")
    for place in places:
        result = run("synthesize", "digits", *QUICK, "--out", place)
        assert result.exit_code == 2, result.output
        assert str(place) in result.stderr
    assert not list(state.rglob("ledger.jsonl"))


def test_data_that_changed_under_an_unfinished_run_are_mentioned(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(seed: int) -> None:
        images = np.random.default_rng(seed).integers(0, 256, (40, 16, 16), np.uint8)
        np.savez(tmp_path / "data.npz", images=images, labels=np.arange(40) % 2)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    save(0)
    words = ["synthesize", tmp_path / "data.npz", "--classes", 2, *QUICK, "--out", tmp_path / "out"]
    with monkeypatch.context() as stopped:
        stopped.setattr(synthesis, "write_release", killed)
        assert run(*words).exit_code == 130
    save(1)
    os.utime(tmp_path / "data.npz", (1, 1))
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "the data set has changed" in result.stderr
    assert "--fresh" in result.stderr
