"""Exact decisions about real numbers: integers that enclose them, and uniforms revealed bit by bit.

Everything here is Python integers and fractions. A decision is made only when the enclosure proves
it; until then more bits are drawn. ``docs/proofs/integer-gaussian.md`` shows each bound.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from sfumato.privacy.noise.entropy import Stream

Enclosure = tuple[int, int]
"""Integers (lower, upper) with lower ≤ x·2^bits ≤ upper for a real number x."""

STEP_BITS = 64


def exp_minus(exponent: Fraction, bits: int) -> Enclosure:
    """Integers (lower, upper) with lower ≤ exp(−exponent)·2^bits ≤ upper, at most 2 apart.

    Args:
        exponent: 0 or more, exact.
        bits: how fine the enclosure is.
    """
    numerator, denominator = exponent.numerator, exponent.denominator
    # exp(−x) = exp(−x/2^halvings)^(2^halvings), with x/2^halvings below one half.
    halvings = max(0, numerator.bit_length() - denominator.bit_length() + 2)
    denominator <<= halvings
    fine = bits + halvings + 16
    # Terms of exp(+x), all positive and rounded down: each is less than 2 units too small, and
    # those left out after the first that rounds to zero are less than 4 units together.
    term = total = 1 << fine
    count = 1
    while term:
        term = term * numerator // (denominator * count)
        total += term
        count += 1
    one = 1 << 2 * fine
    lower, upper = one // (total + 2 * count + 4), -(-one // total)
    for _ in range(halvings):
        lower, upper = lower * lower >> fine, -(-upper * upper >> fine)
    return lower >> fine - bits, -(-upper >> fine - bits)


@lru_cache(maxsize=64)
def boundaries(rate: Fraction, count: int, bits: int) -> tuple[Enclosure, ...]:
    """Enclosures of the first ``count`` cumulative probabilities of P[k] ∝ exp(−rate·k²), k ≥ 0.

    Returns:
        Entry i encloses P[k ≤ i]·2^bits.
    """
    fine = bits + 32
    weights: list[Enclosure] = []
    # The next weight is exp(−rate·(2k + 1)) times the last. Once that ratio is below 1/e, all
    # weights left out are together below the last one that is in.
    while len(weights) <= count or weights[-1][1] > 1 or rate * (2 * len(weights) - 1) < 1:
        weights.append(exp_minus(rate * len(weights) ** 2, fine))
    least = sum(lower for lower, _ in weights)
    most = sum(upper for _, upper in weights) + weights[-1][1]
    found: list[Enclosure] = []
    lower = upper = 0
    for weight in weights[:count]:
        lower, upper = lower + weight[0], upper + weight[1]
        found.append(((lower << bits) // most, -(-(upper << bits) // least)))
    return tuple(found)


class LazyUniform:
    """A uniform real number in [0, 1) of which only as many bits are drawn as decisions need.

    Args:
        prefix: its first ``bits`` bits, as an integer.
        bits: how many those are.
        stream: where further bits come from.
    """

    def __init__(self, prefix: int, bits: int, stream: Stream) -> None:
        self._prefix, self._bits, self._stream = prefix, bits, stream

    def below(self, enclose: Callable[[int], Enclosure]) -> bool:
        """Whether the number is below x, where ``enclose(bits)`` encloses x·2^bits."""
        while True:
            lower, upper = enclose(self._bits)
            if self._prefix < lower:  # number < (prefix + 1)/2^bits ≤ lower/2^bits ≤ x
                return True
            if self._prefix >= upper:  # number ≥ prefix/2^bits ≥ upper/2^bits ≥ x
                return False
            self._prefix = self._prefix << STEP_BITS | int(self._stream.words(1)[0])
            self._bits += STEP_BITS
