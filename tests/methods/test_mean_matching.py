"""Distances between class means: what counts how much."""

from __future__ import annotations

import pytest
import torch

from sfumato.methods.mean_matching import MOST_APART, factor_apart, told_apart


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_what_tells_classes_apart_counts_by_its_factor_and_the_rest_as_before(factor):
    generator = torch.Generator().manual_seed(0)
    wanted, found = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    distance = (told_apart(wanted, factor) - told_apart(found, factor)).square().sum()
    gap = wanted - found
    common = gap.mean(dim=0)
    expected = 5 * common.square().sum() + factor * (gap - common).square().sum()
    torch.testing.assert_close(distance, expected)


def test_one_class_has_nothing_to_be_told_apart_from():
    means = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(told_apart(means, 9.0), means)


@pytest.mark.parametrize("likeness", [1.0, 0.4, 0.2])
def test_classes_that_are_alike_are_told_apart_as_well_as_others(likeness):
    generator = torch.Generator().manual_seed(0)
    means = 1 + likeness * torch.randn(5, 70, generator=generator, dtype=torch.float64)
    common = means.mean(dim=0)
    apart = told_apart(means, factor_apart(means, 2.0)) - common
    torch.testing.assert_close(apart.square().sum(), 2 * 5 * common.square().sum())


def test_classes_are_never_told_apart_less_than_by_the_plain_distance_and_never_without_bound():
    means = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert factor_apart(means, 0.0) == 1.0
    assert factor_apart(means - means.mean(dim=0), 2.0) == 1.0
    for alike in (means[:1], means[:1].expand(5, 7), means[:1] + 1e-6 * means):
        assert factor_apart(alike, 2.0) == MOST_APART
