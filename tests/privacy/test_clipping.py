"""docs/proofs/integer-gaussian.md, "Grid and clip": what one unit adds is bounded."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfumato.privacy import clipping
from sfumato.privacy.clipping import EXACT_ROWS, MARGIN, clipped_sum, clipped_sums, row_norms
from sfumato.privacy.grid import UNIT, max_dimension

anything = st.floats(width=32)  # NaN, infinities, zeros of both signs, subnormal and giant values
clip_norms = st.floats(1e-6, 1e6) | st.sampled_from([1e-45, 1e-36, 1e30, 1e38])


def alone(row: np.ndarray | torch.Tensor, clip_norm: float) -> list[int]:
    steps = clipped_sum(torch.as_tensor(row, dtype=torch.float32)[None], clip_norm)
    assert steps.dtype == torch.int64
    return steps.tolist()


@given(
    row=hnp.arrays(np.float32, st.integers(1, 40), elements=anything),
    clip_norm=clip_norms,
)
@settings(max_examples=400)
def test_integer_norm_never_exceeds_the_bound(row: np.ndarray, clip_norm: float) -> None:
    assert sum(x * x for x in alone(row, clip_norm)) <= UNIT**2


@given(
    row=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32)),
    clip_norm=st.floats(1e-3, 1e3),
)
def test_steps_are_the_exact_scaled_row_rounded(row: np.ndarray, clip_norm: float) -> None:
    exact = [Fraction(float(x)) for x in row]
    norm = math.sqrt(sum(x * x for x in exact))
    bound = Fraction((UNIT - math.sqrt(len(row)) / 2) * (1 - MARGIN))
    scale = bound / max(Fraction(norm), Fraction(clip_norm))
    # Half a step of rounding, and two float32 roundings of at most 2²⁰.
    # The norm is summed in float32, in stretches.
    slack = Fraction(1, 2) + Fraction(1, 4) + Fraction(UNIT, 2**20)
    assert all(
        abs(a - b * scale) <= slack for a, b in zip(alone(row, clip_norm), exact, strict=True)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_row_adds_nothing_and_leaves_its_mates_alone(bad: float) -> None:
    values = torch.tensor([[0.6, 0.8], [bad, 0.1], [0.0, 0.0]])
    together = clipped_sum(values, 1.0)
    assert alone(values[1], 1.0) == [0, 0] == alone(values[2], 1.0)
    assert together.tolist() == alone(values[0], 1.0)


def test_giant_row_keeps_its_direction_at_the_bound() -> None:
    steps = alone(torch.tensor([3.0e18, -4.0e17, 0.0]), 1e-3)
    assert UNIT * (1 - 2 * MARGIN) <= math.hypot(*steps) <= UNIT
    assert steps[1] == pytest.approx(steps[0] * -4 / 30, abs=1)


def test_row_whose_rounded_norm_breaks_the_bound_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, calls = clipping.row_norms, []

    def understated_at_first(rows: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return honest(rows) * (0.5 if len(calls) == 1 else 1.0)

    monkeypatch.setattr(clipping, "row_norms", understated_at_first)
    assert alone(torch.tensor([3.0, 4.0]), 1.0) == [0, 0]


def test_one_step_over_the_bound_is_noticed() -> None:
    # √(2⁴⁰ + 1) and 2²⁰ differ by 2⁻²¹: only an exact norm tells them apart.
    over = torch.tensor([[float(UNIT), 1.0], [float(UNIT), 0.0]])
    found = clipping._squared_steps(over, torch.ones(2, 1))
    assert found.tolist() == [UNIT**2 + 1, UNIT**2]


@given(seed=st.integers(0, 10_000), dimension=st.sampled_from([1, 5, 64, 4096, 4097, 9000]))
@settings(max_examples=30)
def test_a_row_adds_the_same_alone_and_among_any_mates(seed: int, dimension: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scale = torch.exp(3 * torch.randn(20, 1, generator=rng))
    values = torch.randn(20, dimension, generator=rng) * scale
    singles = [np.array(alone(row, 1.0)) for row in values]
    chosen = torch.randperm(20, generator=rng)[: int(torch.randint(1, 17, (1,), generator=rng))]
    expected = sum(singles[i] for i in chosen.tolist())
    assert np.array_equal(clipped_sum(values[chosen], 1.0).numpy(), expected)
    turned = values.T.contiguous().T  # the same values, column by column in memory
    assert torch.equal(clipped_sum(turned[chosen], 1.0), clipped_sum(values[chosen], 1.0))


@given(seed=st.integers(0, 10_000), dimension=st.sampled_from([1, 64, 4097]))
@settings(max_examples=20)
def test_stretches_are_summed_as_each_alone(seed: int, dimension: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, EXACT_ROWS + 1, (1,), generator=rng))
    scale = torch.exp(3 * torch.randn(count, 1, generator=rng))
    values = torch.randn(count, dimension, generator=rng) * scale
    values[torch.rand(count, generator=rng) < 0.2] = torch.nan
    bounds = torch.randint(1, UNIT + 1, (count,), generator=rng) if seed % 2 else None
    cuts = (torch.nonzero(torch.rand(count - 1, generator=rng) < 0.4).flatten() + 1).tolist()
    starts, ends = [0, *cuts], [*cuts, count]
    found = clipped_sums(values, 0.7, bounds, starts)
    assert found.shape == (len(starts), dimension) and found.dtype == torch.int64
    for sums, start, end in zip(found, starts, ends, strict=True):
        part = None if bounds is None else bounds[start:end]
        assert torch.equal(sums, clipped_sum(values[start:end], 0.7, part))


def test_a_norm_has_the_same_bits_in_every_place() -> None:
    rng = torch.Generator().manual_seed(1)
    for width in (1, 7, 16, 33, 255, 1000, 1024, 5000, 2**14):
        rows = torch.randn(16, width, generator=rng)
        whole = row_norms(rows)
        for size in range(1, 17):
            part = torch.randperm(16, generator=rng)[:size]
            assert torch.equal(row_norms(rows[part]), whole[part])


def test_sixteen_largest_rows_add_up_without_rounding() -> None:
    values = torch.full((EXACT_ROWS, 1), 7.0)
    assert clipped_sum(values, 1.0).tolist() == [EXACT_ROWS * alone(torch.tensor([7.0]), 1.0)[0]]
    assert EXACT_ROWS * UNIT <= 2**24


def test_tightening_costs_at_most_a_hundredth() -> None:
    assert math.sqrt(max_dimension()) / 2 <= UNIT / 100 < math.sqrt(max_dimension() * 1.01) / 2
