"""An evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sfumato.evaluation.evaluate import (
    NOT_PRIVATE,
    Evaluation,
    FidelityScore,
    MemorisationScore,
)
from sfumato.evaluation.intervals import Interval
from sfumato.evaluation.utility import Spread, UtilityScore

BINARY = ("AUROC", "balanced\naccuracy", "sensi-\ntivity", "speci-\nficity", "accuracy")
"""What is shown of two classes, in this order; the second class is the positive one."""


def render(evaluation: Evaluation) -> Group:
    """Tables of utility, recall by class, fidelity and memorisation, with their settings.

    A private evaluation carries its watermark at the top.
    """
    parts: list[Panel | Table | Text] = []
    if evaluation.private:
        parts.append(Panel(NOT_PRIVATE, style="bold red"))
    if evaluation.utility:
        parts += [_utility(evaluation), _recall(evaluation)]
    if evaluation.fidelity:
        parts.append(_fidelity(evaluation.fidelity))
    if evaluation.memorisation is not None:
        parts.append(_memorisation(evaluation.memorisation))
    return Group(*parts)


def _percent(spread: Spread | None, within: Interval | None = None) -> str:
    if spread is None:
        return "–"
    deviation = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    interval = "" if within is None else f"\n[{100 * within[0]:.0f}, {100 * within[1]:.0f}]"
    return f"{100 * spread.mean:.1f}{deviation}{interval}"


def _scores(score: UtilityScore, binary: bool) -> list[str]:
    """The scores of one classifier, the ones that matter most first."""
    within = score.intervals
    if within is None:
        return ["–"] * (5 if binary else 2)
    accuracy = _percent(score.accuracy, within.accuracy)
    balanced = _percent(score.balanced_accuracy, within.balanced_accuracy)
    if not binary:
        return [accuracy, balanced]
    specificity, sensitivity = map(_percent, score.recall, within.recall)
    return [_percent(score.auroc, within.auroc), balanced, sensitivity, specificity, accuracy]


def _utility(evaluation: Evaluation) -> Table:
    first = evaluation.utility[0]
    binary = len(evaluation.classes) == 2
    tested = f"{first.test_count:,} real {first.image_type} images"
    if binary:
        counts = zip(first.test_counts, evaluation.classes, strict=False)
        tested += f" ({', '.join(f'{count:,} {name}' for count, name in counts)})"
        tested += f"; sensitivity: share of {evaluation.classes[1]} found"
    tested += "; [95 % interval for the choice of test images: Wilson, AUROC: Hanley-McNeil]"
    table = Table(
        title="Utility: trained on synthetic, tested on real images (%)",
        caption=f"epoch: last; {first.training_count} synthetic against {tested}; "
        "± standard deviation over runs",
    )
    if first.training_count is None:
        table = Table(title="The released classifier on real images (%)", caption=tested)
    table.add_column("classifier", no_wrap=True)
    for name in BINARY if binary else BINARY[-1:] + BINARY[1:2]:
        table.add_column(name, justify="right")
    table.add_column("runs\n(diverged)", justify="right")
    of_same = [s.classifier for s in evaluation.baseline] == [
        s.classifier for s in evaluation.utility
    ]
    if of_same:
        table.add_column("accuracy, trained on real", justify="right")
    others = () if of_same else evaluation.baseline
    for i, score in enumerate((*evaluation.utility, *others)):
        cells = [score.classifier, *_scores(score, binary)]
        cells += [f"{len(score.runs)} ({score.diverged})"]
        cells += [_percent(evaluation.baseline[i].accuracy)] if of_same else []
        table.add_row(*cells)
    return table


def _recall(evaluation: Evaluation) -> Table:
    def shares(score: UtilityScore) -> list[str]:
        recall = score.recall or (None,) * len(evaluation.classes)
        return ["–" if share is None else f"{100 * share.mean:.0f}" for share in recall]

    table = Table(title="Recall by class (%)")
    table.add_column("class")
    columns = [(score.classifier, shares(score)) for score in evaluation.utility]
    columns += [(f"{score.classifier} (real)", shares(score)) for score in evaluation.baseline]
    for name, _ in columns:
        table.add_column(name, justify="right")
    for i, name in enumerate(evaluation.classes):
        table.add_row(name, *(column[i] for _, column in columns))
    return table


def _fidelity(scores: Sequence[FidelityScore]) -> Table:
    setting = scores[0].setting
    rule = f"; {setting.grey_rule}" if setting.grey_rule else ""
    table = Table(
        title="Fidelity",
        caption=f"features: {setting.extractor} (SHA-256 {setting.weights_digest[:12]}…); "
        f"{setting.synthetic_count} synthetic against {setting.real_count} real "
        f"{setting.image_type} images{rule}",
    )
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("better")
    table.add_column("computed with")
    for score in scores:
        deviation = "" if score.deviation is None else f" ± {score.deviation:.2g}"
        table.add_row(score.name, f"{score.value:.4g}{deviation}", score.better, score.detail)
    return table


def _memorisation(score: MemorisationScore) -> Table:
    result = score.result
    table = Table(
        title="Memorisation: distance to the nearest real training image",
        caption=f"{score.setting.synthetic_count} synthetic and {score.setting.real_count} "
        f"held-out images against {score.training_count} training images; "
        "may show copying, proves no privacy",
    )
    table.add_column("check")
    table.add_column("value", justify="right")
    table.add_row("synthetic nearer than 99 % of held-out", f"{100 * result.share_closer:.2f} %")
    table.add_row("nearer than a held-out one, chance", f"{result.probability_closer:.3f}")
    table.add_row("Mann-Whitney p, one-sided", f"{result.p_value:.2g}")
    table.add_row("equal to a training image", str(score.exact_copies))
    return table
