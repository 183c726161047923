from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from sfumato.evaluation.intervals import of_auroc, of_mean_share, of_share


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (3, 7), (40, 100), (999, 1000)])
def test_the_interval_of_a_share_is_wilson_s(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, "wilson")
    assert of_share(right / count, count) == pytest.approx((expected.low, expected.high))


def covered(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    balanced = [
        covered(of_mean_share(list(rng.binomial([40, 15], [0.9, 0.7]) / [40, 15]), [40, 15]), 0.8)
        for _ in range(2000)
    ]
    labels = np.repeat([0, 1], [60, 40])
    areas = [
        covered(of_auroc(float(roc_auc_score(labels, rng.normal(labels, 1))), 60, 40), 0.7602)
        for _ in range(400)
    ]
    assert 0.93 <= np.mean(balanced) <= 0.99
    assert 0.91 <= np.mean(areas) <= 0.99


def test_an_interval_is_narrow_enough_to_refuse() -> None:
    assert not covered(of_auroc(0.76, 60, 40), 0.6)
    assert not covered(of_mean_share([0.9, 0.7], [400, 150]), 0.7)
    assert of_auroc(1.0, 3, 3) == (1.0, 1.0)
