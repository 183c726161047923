"""The sharpest bound, for canaries that a right curator cannot tie together.

In the game of the queries each canary has noise, and where there is sampling a draw, of its own.
So under the claim its canaries are as many independent experiments, and Clopper and Pearson bound
the rates of true and false alarms (the audit of arXiv 2302.07956, for any trade-off function).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from sfumato.audit.trade_off import BlowUpInverse, Family


def epsilon_independent(
    scores: NDArray[np.float64], present: NDArray[np.bool_], family: Family, significance: float
) -> float:
    """ε of the least private member of ``family`` that is refuted; 0 where none is.

    The alarm is a score above 0, fixed beforehand.

    Guarantee: of a mechanism as private as a member whose canaries are independent it exceeds
    that member's ε with probability at most ``significance``.
    """
    hits, alarms = scores[present] > 0, scores[~present] > 0
    if not len(hits) or not len(alarms):
        return 0.0
    count, total = int(hits.sum()), len(hits)
    least = float(beta.ppf(significance / 2, count, total - count + 1)) if count else 0.0
    count, total = int(alarms.sum()), len(alarms)
    most = float(beta.ppf(1 - significance / 2, count + 1, total - count)) if count < total else 1.0

    def refuted(inverse: BlowUpInverse) -> bool:
        return inverse(least) > most

    return family.largest_refuted(refuted)
