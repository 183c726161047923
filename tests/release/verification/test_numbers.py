from __future__ import annotations

import math

import pytest

from sfumato.release.verification.numbers import factor, percent, scientific


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(math.log(3), "3"), (1.0, "2.72"), (10.0, "22,026"), (20.0, "4.85·10⁸"), (1e4, "10⁴³⁴³")],
)
def test_the_factor_is_e_to_the_epsilon(epsilon: float, text: str) -> None:
    assert factor(epsilon) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.5, "50"),
        (0.01, "1"),
        (0.7310585, "73.1"),
        (0.99331, "99.33"),
        (0.9999546, "99.9955"),
        (4.54e-5, "0.0045"),
        (1.0, "practically 100"),
        (0.0, "practically 0"),
    ],
)
def test_a_percentage_shows_how_far_it_is_from_certainty(share: float, text: str) -> None:
    assert percent(share) == f"{text}\u202f%"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "10⁻⁵"), (2.5e-6, "2.5·10⁻⁶"), (0.01, "0.01"), (1.6e9, "1.6·10⁹")],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert scientific(value) == text
