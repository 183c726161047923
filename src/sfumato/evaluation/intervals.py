"""95 % confidence intervals of what a classifier scores, for the chance of which images test it.

They hold the classifier fixed: how much another training would differ is the spread over runs.

* a share of n images: Wilson's score interval (J. Am. Stat. Assoc. 22, 1927);
* balanced accuracy, a mean of independent shares: the distances to Wilson's limits, squared and
  added (Newcombe, Statistics in Medicine 17, 1998, method 10);
* AUROC: a normal interval with the standard error of Hanley and McNeil (Radiology 143, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Interval = tuple[float, float]
Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of the means over runs; None where there is no such score."""

    accuracy: Interval | None
    balanced_accuracy: Interval | None
    recall: tuple[Interval | None, ...]
    auroc: Interval | None


def of_share(share: float, count: int) -> Interval:
    """Wilson's interval of a share of ``count`` images."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count)
    half *= math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def of_mean_share(shares: Sequence[float], counts: Sequence[int]) -> Interval:
    """The interval of the mean of shares of independent sets of images."""
    mean = sum(shares) / len(shares)
    limits = [of_share(share, count) for share, count in zip(shares, counts, strict=True)]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, limits, strict=True)))
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, limits, strict=True)))
    return mean - below / len(shares), mean + above / len(shares)


def of_auroc(area: float, negatives: int, positives: int) -> Interval:
    """The interval of an area under the ROC curve of so many images of each class."""
    twice, other = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positives - 1) * (twice - area**2) + (negatives - 1) * (other - area**2)
    half = Z * math.sqrt(max(0.0, variance) / (negatives * positives))
    return max(0.0, area - half), min(1.0, area + half)
