"""Published figures, with their source and protocol, to stand beside one's own.

All of them lie in ``literature.toml``; nothing is quoted anywhere else in the package.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Source:
    """A publication: how to cite it, which state of it, its δ, and how its figures came about."""

    key: str
    cite: str
    date: str
    delta: str
    protocol: str


@dataclass(frozen=True)
class Published:
    """One row of a published table: accuracies in percent and FIDs by ε, NaN where there is none.

    ``needs`` says what it takes to run the method: "none", "GPU", "public images", or both;
    ``checked`` is False for figures that are quoted second-hand.
    """

    data: str
    method: str
    source: Source
    classifier: str
    epsilon: tuple[float, ...]
    accuracy: tuple[float, ...]
    fid: tuple[float, ...]
    needs: str
    caveat: str
    checked: bool

    def accuracy_at(self, epsilon: float) -> float | None:
        """Accuracy in percent at exactly this ε, or None."""
        return self._at(self.accuracy, epsilon)

    def fid_at(self, epsilon: float) -> float | None:
        """FID at exactly this ε, or None."""
        return self._at(self.fid, epsilon)

    def _at(self, values: tuple[float, ...], epsilon: float) -> float | None:
        found = dict(zip(self.epsilon, values, strict=True)).get(epsilon, math.nan)
        return None if math.isnan(found) else found


@cache
def published() -> tuple[Published, ...]:
    """Every published row that this package knows."""
    text = files("sfumato.evaluation").joinpath("literature.toml").read_text(encoding="utf-8")
    known = tomllib.loads(text)
    sources = {key: Source(key, **facts) for key, facts in known["sources"].items()}
    rows = []
    for row in known["results"]:
        none = [math.nan] * len(row["epsilon"])
        lists = {
            name: tuple(float(value) for value in row.get(name, none))
            for name in ("epsilon", "accuracy", "fid")
        }
        defaults = {"caveat": "", "checked": True}
        rows.append(Published(**{**defaults, **row, **lists, "source": sources[row["source"]]}))
    return tuple(rows)


def published_on(data: str) -> tuple[Published, ...]:
    """The rows about one data set, in the order of the file."""
    return tuple(row for row in published() if row.data == data)
