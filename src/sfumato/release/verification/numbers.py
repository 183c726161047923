"""Numbers as people read them, in card and report."""

from __future__ import annotations

import math

_LARGEST_EXPONENT = 700.0
_NARROW = "\u202f"
"""The space that keeps a number and its unit on one line."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def factor(epsilon: float) -> str:
    """e^ε, the most by which a probability or the odds of a guess change, but for δ."""
    if epsilon > _LARGEST_EXPONENT:
        return f"10{str(math.ceil(epsilon / math.log(10))).translate(_SUPERSCRIPT)}"
    value = math.exp(epsilon)
    if value < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value < 1e6 else scientific(value)


def percent(share: float) -> str:
    """A share as a percentage that does not hide its distance from 100 %.

    1 %, 73.1 %, 99.9955 %; a bound is never shown as 100 % until less than 10⁻⁸ is missing.
    """
    missing = min(share, 1 - share)
    if missing < 1e-8:
        return f"practically {100 * round(share)}{_NARROW}%"
    digits = max(1, 1 - math.floor(math.log10(100 * missing)))
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.')}{_NARROW}%"


def scientific(value: float) -> str:
    """A number as people write it: 10⁻⁵, 2.5·10⁻⁶, 0.01."""
    if 1e-3 <= value < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}·{power}"
