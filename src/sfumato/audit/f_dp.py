"""A stronger lower bound on ε from one run: Mahloujifar, Melis, Chaudhuri, arXiv 2410.22235.

It refutes not the two numbers ε and δ but the whole trade-off function that a plan claims.

Write p_n for the probability that n of c guesses are right, and, over m canaries,
r_i = Σ_{n≥i} n·p_n / m and h_i = Σ_{n≥i} (c − n)·p_n / m. Given all other coins, "canary j is
guessed right and at least i others are" has under one side of coin j the probability that "j is
guessed wrong and at least i others are right" has under the other side. So f-DP, averaged over j by
convexity, says h_i ≥ B(r_{i+1}) with B the inverse of 1 − f, while r and h add up to c/m at i = 0.
Where that is impossible with a tail of ``significance`` at the observed count, f is refuted.
"""

from __future__ import annotations

from sfumato.audit.guesses import Guesses
from sfumato.audit.trade_off import PRECISION, BlowUpInverse, Family


def is_refuted(guesses: Guesses, inverse: BlowUpInverse, significance: float) -> bool:
    """Whether so many right guesses are less probable than ``significance`` under a trade-off.

    The recursion of arXiv 2410.22235, Algorithm 3, for two alternatives.
    """
    made, correct = guesses.made, guesses.correct
    right = significance * correct / guesses.canaries
    wrong = significance * (made - correct) / guesses.canaries
    whole = made / guesses.canaries
    for i in range(correct - 1, -1, -1):
        needed = inverse(right)
        if needed <= wrong:
            break  # neither sum can grow any more
        right += i / (made - i) * (needed - wrong)
        wrong = needed
        if right + wrong > whole:
            return True
    return False


def epsilon_f_dp(
    guesses: Guesses, family: Family, significance: float, precision: float = PRECISION
) -> float:
    """ε of the least private member of ``family`` that is refuted; 0 where none is.

    Guarantee: of a mechanism as private as a member it exceeds that member's ε with probability
    at most ``significance``.
    """
    return family.largest_refuted(
        lambda inverse: is_refuted(guesses, inverse, significance), precision
    )
