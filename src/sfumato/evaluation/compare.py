"""Releases beside each other: one table, and one picture of utility and fidelity against ε."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfumato.evaluation.evaluate import NOT_PRIVATE, Evaluation
from sfumato.evaluation.judging import Judged
from sfumato.evaluation.utility import Spread
from sfumato.privacy import RELATIONS

FRECHET, KERNEL = "Fréchet distance", "kernel distance"
SHORT = dict(zip(RELATIONS, ("add/remove", "replace"), strict=True))
ITSELF = "the released classifier"
"""Stands for a classifier's name where the release is one and no image was trained on."""
LEGEND = (
    "ε under both relations, add-or-remove-one and replace-one; * the one that the release was "
    "budgeted in"
)


@dataclass(frozen=True)
class Compared:
    """One release in a comparison; shares in [0, 1], None where every run diverged.

    A classifier's release has one accuracy, its own, and no distances.
    """

    name: str
    method: str
    delta: float
    relation: str
    epsilon_by_relation: dict[str, float]
    accuracy: dict[str, Spread | None]
    frechet: float | None
    kernel: float | None

    @classmethod
    def of(cls, judged: Judged) -> Compared:
        """What a comparison shows of an evaluated release."""
        facts = judged.release.facts()
        scores = fidelity(judged.evaluation)
        return cls(
            name=facts["name"],
            method=facts["method"],
            delta=facts["delta"],
            relation=facts["relation"],
            epsilon_by_relation=facts["epsilon_by_relation"],
            accuracy={
                ITSELF if score.training_count is None else score.classifier: score.accuracy
                for score in judged.evaluation.utility
            },
            frechet=scores.get(FRECHET),
            kernel=scores.get(KERNEL),
        )

    @property
    def epsilon(self) -> float:
        """ε under the relation that the release was budgeted in."""
        return self.epsilon_by_relation[self.relation]


def fidelity(evaluation: Evaluation) -> dict[str, float]:
    """The fidelity scores of an evaluation by name."""
    return {score.name: score.value for score in evaluation.fidelity}


def columns(compared: Sequence[Compared]) -> list[str]:
    """Headings of the table: ε under both relations, since neither may be read as the other."""
    return [
        "release",
        "method",
        *(f"ε, {SHORT[relation]}" for relation in RELATIONS),
        "δ",
        *(f"accuracy, {name} (%)" for name in classifiers(compared)),
        FRECHET,
        KERNEL,
    ]


def classifiers(compared: Sequence[Compared]) -> list[str]:
    """The names of the classifiers of all releases."""
    return list(dict.fromkeys(name for release in compared for name in release.accuracy))


def cells(release: Compared, names: Sequence[str] | None = None) -> list[str]:
    """One row of the table; ``names`` are the classifiers that have a column, its own if None."""
    budgeted = {release.relation: "*"}
    return [
        release.name,
        release.method,
        *(
            f"{release.epsilon_by_relation[relation]:.4g}{budgeted.get(relation, '')}"
            for relation in RELATIONS
        ),
        f"{release.delta:g}",
        *(percent(release.accuracy.get(name)) for name in names or release.accuracy),
        "–" if release.frechet is None else f"{release.frechet:.4g}",
        "–" if release.kernel is None else f"{release.kernel:.3g}",
    ]


def percent(spread: Spread | None) -> str:
    """A share with its spread over repeats, in percent."""
    if spread is None:
        return "–"
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:.1f}{deviation}"


def to_markdown(compared: Sequence[Compared], private: bool) -> str:
    """The table as a Markdown page."""
    lines = [f"**{NOT_PRIVATE}**", ""] if private else []
    heads = columns(compared)
    lines += [_line(heads), _line(["---"] * len(heads))]
    lines += [_line(cells(release, classifiers(compared))) for release in compared]
    return "\n".join([*lines, "", LEGEND.replace("*", "\\*")]) + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"


def to_dict(compared: Sequence[Compared], private: bool) -> dict[str, Any]:
    """The comparison as plain JSON values."""
    rows = [
        {
            **{key: value for key, value in vars(release).items() if key != "accuracy"},
            "accuracy": {
                name: None if spread is None else vars(spread)
                for name, spread in release.accuracy.items()
            },
        }
        for release in compared
    ]
    return {**({"watermark": NOT_PRIVATE} if private else {}), "releases": rows}


def plot(compared: Sequence[Compared], private: bool, path: Path) -> None:
    """Draw accuracy and Fréchet distance against ε, a colour a method, into a PNG.

    ε is on a logarithmic axis and under add-or-remove-one, whatever a release was budgeted in.
    """
    # A figure of its own uses no global state and, saved as PNG, the backend that needs no screen.
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    utility, distance = figure.subplots(1, 2)
    methods = sorted({release.method for release in compared})
    names = classifiers(compared)
    for colour, method in enumerate(methods):
        mine = sorted(
            (release for release in compared if release.method == method),
            key=lambda release: release.epsilon_by_relation[RELATIONS[0]],
        )
        for classifier, line in zip(names, ("-", "--", ":", "-.") * 3, strict=False):
            known = [(r, s) for r in mine if (s := r.accuracy.get(classifier)) is not None]
            if not known:
                continue
            utility.errorbar(
                [release.epsilon_by_relation[RELATIONS[0]] for release, _ in known],
                [100 * spread.mean for _, spread in known],
                [100 * (spread.deviation or 0) for _, spread in known],
                color=f"C{colour}",
                linestyle=line,
                marker="o",
                label=f"{method}, {classifier}",
            )
        apart = [(r.epsilon_by_relation[RELATIONS[0]], r.frechet) for r in mine if r.frechet]
        if apart:
            distance.plot(*zip(*apart, strict=True), color=f"C{colour}", marker="o", label=method)
    ticks = sorted({release.epsilon_by_relation[RELATIONS[0]] for release in compared})
    _finish(utility, "accuracy on real test images (%)", ticks)
    _finish(distance, "Fréchet distance (lower is better)", ticks)
    if private:
        figure.suptitle(NOT_PRIVATE, color="firebrick", fontsize=9)
    figure.savefig(path, dpi=120)


def _finish(axes: Axes, label: str, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{epsilon:.3g}" for epsilon in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"ε ({RELATIONS[0]})")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
