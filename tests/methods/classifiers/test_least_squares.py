"""A private classifier from one sum: it learns, keeps its clip norm, and is saved whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.data.arrays import load_labelled
from sfumato.errors import UsageError
from sfumato.methods.classifiers.least_squares import LeastSquares
from sfumato.methods.classifiers.ridge import LeastSquaresClassifier
from sfumato.privacy import Answer, Budget, Curator

SMALL = LeastSquares(axes=30, encoder_size=32)


def test_no_contribution_is_longer_than_the_clip_norm(digits):
    (query,) = SMALL.queries(digits.spec)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.choice([0, 255], (6, 1, 28, 28)).astype(np.uint8))
    rows = query.contribution(images, torch.zeros(6, dtype=torch.int64))
    assert rows.shape == (6, query.dimension)
    assert float(rows.norm(dim=1).max()) <= query.clip_norm * (1 + 1e-5)


def test_it_names_most_digits_where_the_budget_is_large_and_few_where_it_is_small(
    all_digits, digits, tmp_path
):
    known = load_labelled(all_digits)
    images, labels = known.images[:300], known.labels[:300]

    def right(source, epsilon: float) -> float:
        state = tmp_path / str(epsilon)
        with Curator(source, Budget(epsilon, 1e-5), state=state, quiet=True) as curator:
            classifier = SMALL.fit(curator)
        return float((classifier.predict(images) == labels).mean())

    assert right(all_digits, 1000.0) > 0.7
    assert right(digits, 0.01) < 0.5


def test_a_value_outside_its_rule_is_named(digits):
    for bad in ({"axes": 0}, {"encoder_size": 8}, {"target_weight": 0.0}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            LeastSquares(**bad)


@pytest.mark.parametrize("part", ["total", "shared"])
def test_sums_that_do_not_fit_are_refused(part, digits):
    coordinates, spec = SMALL.coordinates().loaded(), digits.spec
    fit = {"total": np.zeros((10, 31)), "shared": np.zeros(31 * 32 // 2)}
    LeastSquaresClassifier(spec, coordinates, Answer(**fit, noise_std=1.0), 1.0)
    for wrong in (fit[part][..., 1:], fit[part] + np.nan):
        with pytest.raises(ValueError, match="sum"):
            LeastSquaresClassifier(
                spec, coordinates, Answer(**{**fit, part: wrong}, noise_std=1.0), 1.0
            )


def test_more_axes_than_ship_are_refused():
    with pytest.raises(UsageError, match="axes=700: the axes that ship are 600"):
        LeastSquares(axes=700).coordinates()
