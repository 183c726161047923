"""What was measured on real images: published metrics, and evaluations that stay private."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import DataError
from sfumato.release import strict_json
from sfumato.release.files import METRICS
from sfumato.release.verification.metrics import PART

Row = tuple[str, ...]

FIRST = ("AUROC", "balanced accuracy", "sensitivity", "specificity")
"""What stands first for two classes, of which the second is the positive one."""


@dataclass(frozen=True)
class PublishedMetrics:
    """A verified release's ``metrics.json``, and the core of the run that paid for it."""

    metrics: Mapping[str, Any]
    core: Mapping[str, Any]

    @classmethod
    def read(cls, release: Path, certificate: Mapping[str, Any]) -> PublishedMetrics | None:
        """The published metrics of a verified release, if it has any."""
        if PART not in certificate:
            return None
        metrics = strict_json.parse((release / METRICS).read_bytes(), METRICS)
        return cls(metrics, certificate[PART])

    @property
    def of_same_data(self) -> bool:
        """Whether the images that were measured are those that the release was made from."""
        return bool(self.metrics["same_data_set_as_release"])

    def utility(self) -> list[Row]:
        """Rows of classifier and accuracy."""
        return [
            (str(score["classifier"]), _noisy(score["accuracy"]))
            for score in self.metrics["utility"]
        ]

    def recall(self, classes: Sequence[str]) -> list[Row]:
        """Rows of class and one recall a classifier."""
        by_class = zip(*(score["recall"] for score in self.metrics["utility"]), strict=True)
        return [
            (name, *map(_noisy, recall)) for name, recall in zip(classes, by_class, strict=False)
        ]


def _noisy(measured: Mapping[str, Any]) -> str:
    value, deviation = measured["value"], measured["deviation"]
    if value is None or deviation is None:
        return "drowned in the noise"
    return f"{100 * value:.1f} ± {100 * deviation:.1f}"


@dataclass(frozen=True)
class UtilityRow:
    """One classifier: texts, and the mean accuracies in [0, 1] that the bars show.

    ``first`` holds the scores that stand first for two classes: AUROC, balanced accuracy,
    sensitivity, specificity; for more classes balanced accuracy stands after accuracy.
    """

    classifier: str
    first: Row
    accuracy: str
    balanced_accuracy: str
    runs: str
    on_real: str
    share: float | None
    share_on_real: float | None


@dataclass(frozen=True)
class Measurements:
    """What ``sfumato.evaluation`` measured, as texts; ``private`` unless the data was public."""

    private: bool
    utility: Sequence[UtilityRow]
    utility_first: Row
    utility_note: str
    recall_columns: Row
    recall: Sequence[Row]
    fidelity: Sequence[Row]
    fidelity_note: str
    memorisation: Sequence[Row]


def read_measurements(path: Path, certificate: Mapping[str, Any]) -> Measurements:
    """Read the JSON of an ``Evaluation`` of the release that has this certificate.

    Raises:
        DataError: the file is none, or is of another release.
    """
    try:
        value = json.loads(path.read_bytes())
        stated = value.get("release", {})
        same = [stated[key] == certificate[key] for key in ("epsilon", "delta") if key in stated]
        if list(value["classes"]) != certificate["classes"] or not all(same):
            raise DataError(
                f"{path}: is an evaluation of another release. Give the evaluation of this one."
            )
        return _measurements(value)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise DataError(
            f"{path}: is no evaluation. Give the JSON file that sfumato evaluate wrote."
        ) from None


def _measurements(value: Mapping[str, Any]) -> Measurements:
    utility, baseline, fidelity = value["utility"], value["baseline"], value["fidelity"]
    real: dict[str, Any] = {score["classifier"]: score for score in baseline}
    # Whatever does not say that it is of public data is private.
    return Measurements(
        private=value["private"] is not False,
        utility=[_utility(score, real.get(score["classifier"])) for score in utility],
        utility_first=FIRST if len(value["classes"]) == 2 else (),
        utility_note=_utility_note(utility[0]) if utility else "",
        recall_columns=(
            "class",
            *(str(score["classifier"]) for score in utility),
            *(f"{score['classifier']} (on real)" for score in baseline),
        ),
        recall=[
            (str(name), *(_share(_nth(score["recall"], at)) for score in (*utility, *baseline)))
            for at, name in enumerate(value["classes"] if utility else [])
        ],
        fidelity=[_fidelity(score) for score in fidelity],
        fidelity_note=_setting(fidelity[0]["setting"]) if fidelity else "",
        memorisation=_memorisation(value["memorisation"]) if value["memorisation"] else [],
    )


def _nth(values: Sequence[Any], at: int) -> Any:
    # A classifier of which every run diverged has no recall at all.
    return values[at] if values else None


def _mean(spread: Mapping[str, Any] | None) -> float | None:
    return None if spread is None else float(spread["mean"])


def _share(spread: Mapping[str, Any] | None, within: Sequence[float] | None = None) -> str:
    if spread is None:
        return "–"
    deviation = spread["deviation"]
    text = f"{100 * spread['mean']:.1f}" + (f" ± {100 * deviation:.1f}" if deviation else "")
    return text if within is None else f"{text} [{100 * within[0]:.1f}, {100 * within[1]:.1f}]"


def _utility(score: Mapping[str, Any], real: Mapping[str, Any] | None) -> UtilityRow:
    diverged = sum(run["diverged"] is not None for run in score["runs"])
    within = score.get("intervals") or {}

    def shown(name: str) -> str:
        return _share(score[name], within.get(name))

    limits = within.get("recall", ())
    by_class = [_share(*pair) for pair in zip(score["recall"], limits, strict=False)]
    return UtilityRow(
        classifier=str(score["classifier"]),
        first=(shown("auroc"), shown("balanced_accuracy"), *(by_class[::-1] or ("–", "–"))),
        accuracy=shown("accuracy"),
        balanced_accuracy=shown("balanced_accuracy"),
        runs=f"{len(score['runs'])}" + (f" ({diverged} diverged)" if diverged else ""),
        on_real=_share(real["accuracy"]) if real else "–",
        share=_mean(score["accuracy"]),
        share_on_real=_mean(real["accuracy"]) if real else None,
    )


def _utility_note(score: Mapping[str, Any]) -> str:
    how = (
        " In brackets a 95 % interval for the choice of the test images (shares: Wilson, AUROC: "
        "Hanley and McNeil)."
        if score.get("intervals")
        else ""
    )
    if score["training_count"] is None:  # a released classifier
        return f"Tested on {score['test_count']:,} real images.{how}"
    return (
        f"Trained on {score['training_count']:,} synthetic images, tested on "
        f"{score['test_count']:,} real ones; epoch: last.{how}"
    )


def _fidelity(score: Mapping[str, Any]) -> Row:
    deviation = f" ± {score['deviation']:.2g}" if score["deviation"] is not None else ""
    value = f"{score['value']:.4g}{deviation}"
    return str(score["name"]), value, f"{score['better']} is better", str(score["detail"])


def _setting(setting: Mapping[str, Any]) -> str:
    rule = f"; {setting['grey_rule']}" if setting["grey_rule"] else ""
    return (
        f"Features of {setting['extractor']} (SHA-256 {setting['weights_digest'][:12]}…); "
        f"{setting['synthetic_count']:,} synthetic against {setting['real_count']:,} real "
        f"{setting['image_type']} images{rule}."
    )


def _memorisation(score: Mapping[str, Any]) -> list[Row]:
    result = score["result"]
    shown: list[tuple[str, Any, Callable[[Any], str]]] = [
        (
            "nearer than 99 % of held-out images",
            result["share_closer"],
            lambda x: f"{100 * x:.2f} %",
        ),
        ("nearer than a held-out one, chance", result["probability_closer"], "{:.3f}".format),
        ("Mann-Whitney p, one-sided", result["p_value"], "{:.2g}".format),
        ("equal to a training image, images", score["exact_copies"], "{:,}".format),
    ]
    return [(name, text(value)) for name, value, text in shown]
