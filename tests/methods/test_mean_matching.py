"""Distances between class means: what counts how much."""

from __future__ import annotations

import pytest
import torch

from sfumato.methods.mean_matching import told_apart


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_what_tells_classes_apart_counts_by_its_weight_and_the_rest_as_before(weight):
    generator = torch.Generator().manual_seed(0)
    wanted, found = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    distance = (told_apart(wanted, weight) - told_apart(found, weight)).square().sum()
    gap = wanted - found
    common = gap.mean(dim=0)
    expected = 5 * common.square().sum() + weight * (gap - common).square().sum()
    torch.testing.assert_close(distance, expected)


def test_one_class_has_nothing_to_be_told_apart_from():
    means = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(told_apart(means, 9.0), means)
