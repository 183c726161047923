"""The discrete Gaussian on the integers, drawn exactly: P[Y = y] ∝ exp(−y²/2s²).

Rejection from strata of w integers (``strata.py``), in uint64 and in blocks. A 64-bit word gives
the stratum and the place in it; a lazily revealed uniform V accepts if V < exp(−(y² − (kw)²)/2s²).
Three looks decide that comparison, each only where the one before proves nothing: 16 bits against a
table, 32 bits against a fixed-point exponential with a proven error, then exact integers with as
many bits as it takes. No floating-point number occurs. The proof is in
``docs/proofs/integer-gaussian.md``.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import SfumatoError
from sfumato.privacy.noise.enclosure import LazyUniform, exp_minus
from sfumato.privacy.noise.entropy import Stream
from sfumato.privacy.noise.fixed_point import MARGIN, exp_minus_scaled, scaled_exponent
from sfumato.privacy.noise.strata import CELL_BITS, Strata, strata_of

BLOCK = 2**16
"""Candidates drawn at once: their arrays fit into a core's cache."""

LEAST_SCALE = Fraction(1, 2)
LARGEST_SCALE = 2**50


def sample(scale: int | Fraction, n: int, stream: Stream) -> NDArray[np.int64]:
    """``n`` independent integers with P[Y = y] ∝ exp(−y²/2·scale²), exactly.

    Args:
        scale: s, 1/2 … 2⁵⁰, a whole number or a fraction.
        n: how many.
        stream: uniform bits; ``fresh_stream()`` for anything that must be private.

    Returns:
        int64[n].

    Raises:
        SfumatoError: the scale or ``n`` is out of range, or the scale is a float.
    """
    if not isinstance(scale, (int, Fraction)) or not LEAST_SCALE <= scale <= LARGEST_SCALE:
        raise SfumatoError(f"scale={scale} must be an exact number in 1/2 … 2**50.")
    if n < 0:
        raise SfumatoError(f"n={n} must not be negative.")
    strata = strata_of(Fraction(scale))
    drawn = np.empty(n, dtype=np.int64)
    done = 0
    while done < n:
        missing = n - done
        # About one in twenty is rejected. Candidates beyond the n-th accepted one go unseen.
        kept = _candidates(min(BLOCK, missing + missing // 8 + 64), strata, stream)[:missing]
        drawn[done : done + kept.size] = kept
        done += kept.size
    return drawn


def _candidates(n: int, strata: Strata, stream: Stream) -> NDArray[np.int64]:
    """Those of ``n`` candidates that are accepted, in their order."""
    words = stream.words(n)
    coins = stream.words(-(-n // 4)).view(np.uint16)[:n]  # the first 16 bits of each V
    cells = words.astype(np.uint16)  # the word's low 16 bits
    value = _place(words, strata.stratum.take(cells).astype(np.int64), strata)
    accepted = coins < strata.safe.take(cells)
    rest = np.flatnonzero(~accepted)
    value[rest], accepted[rest] = _decide(words[rest], coins[rest], strata, stream)
    return value[accepted]


def _place(
    words: NDArray[np.uint64], stratum: NDArray[np.int64], strata: Strata
) -> NDArray[np.int64]:
    """kw + j or its mirror image −1 − (kw + j): sign and j are the top bits of the word.

    The signed shift leaves j ≥ 0 or −1 − j; "exclusive or" with kw, whose low bits are zero, adds
    kw to the one and takes it from the other. They are 48 bits at most, so the low 16 stay apart.
    """
    return (stratum << strata.width_bits) ^ (words.view(np.int64) >> (63 - strata.width_bits))


def _decide(
    words: NDArray[np.uint64], coins: NDArray[np.uint16], strata: Strata, stream: Stream
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Values and acceptance of candidates that the tables alone leave open."""
    cells = words.astype(np.uint16)
    stratum = strata.stratum.take(cells).astype(np.int64)
    open_cells = np.flatnonzero(strata.safe.take(cells) == 0)
    stratum[open_cells] = strata.find(
        _continued(cells[open_cells], stream.words(open_cells.size)), stream
    )
    value = _place(words, stratum, strata)

    coin = _continued(coins, stream.words(coins.size))  # the first 64 bits of each V
    weight = exp_minus_scaled(scaled_exponent(value, stratum, strata))
    ahead = (coin >> np.uint64(32)).view(np.int64) - weight.view(np.int64)
    accepted = ahead < -MARGIN
    unproven = (np.abs(ahead) <= MARGIN) | (stratum >= strata.count)
    for row in np.flatnonzero(unproven):
        exponent = strata.exponent(int(value[row]), int(stratum[row]))
        uniform = LazyUniform(int(coin[row]), 64, stream)
        accepted[row] = uniform.below(partial(exp_minus, exponent))
    return value, accepted


def _continued(first: NDArray[np.uint16], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Uniforms' first 64 bits: the 16 already drawn, then 48 fresh ones."""
    bits = np.uint64(64 - CELL_BITS)
    return first.astype(np.uint64) << bits | more >> np.uint64(CELL_BITS)
