"""``sfumato evaluate``: what a release is worth, measured on real images."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions
from sfumato.errors import UsageError
from sfumato.options import EvaluationOptions, PaidMetrics, RunOptions

if TYPE_CHECKING:
    from sfumato.release import Verification

UNITS = {"unit", "unit_pattern", "records_per_unit"}
Against = Annotated[
    str,
    typer.Option(
        help="Real images that no release was made from: DATA's split test, or all of it.",
        metavar="DATA",
    ),
]


def evaluate(
    release: p.Release,
    against: Against,
    how: EvaluationOptions = EvaluationOptions(),
    paid: PaidMetrics = PaidMetrics(),
    unit: Annotated[
        DataOptions,
        "unit",
        "unit_pattern",
        "records_per_unit",
        "labels",
        "name_column",
        "label_key",
        "image_key",
        "value_range",
        "dicom",
        "frame",
        "follow_links",
        "workers",
    ] = DataOptions(),
    run: Annotated[
        RunOptions,
        "allow_large_delta",
        "fresh",
        "same_data_as",
        "independent_data",
        "state",
        "quiet",
        "device",
    ] = RunOptions(),
    seed_public: p.SeedPublic = 0,
    json: p.Json = False,
) -> None:
    """Measure what a release is worth on real images.

    Trains classifiers on the synthetic images and tests them on real ones; beside them the same
    classifiers trained on real images, distances between the two, and a check for copies. The
    result is not private: it is kept in DATA's private folder, never in the release.
    --publish-metrics instead asks for noisy metrics, which cost --epsilon and may be shared.

    \b
    Examples:
      sfumato evaluate release/ --against fashion-mnist --public
      sfumato evaluate release/ --against heldout/ --train xrays/ --repeats 3
      sfumato evaluate release/ --against heldout/ --publish-metrics --epsilon 0.5
    """
    from sfumato.evaluation.judging import judge, open_real, open_release
    from sfumato.evaluation.private_metrics import publish
    from sfumato.evaluation.table import render
    from sfumato.privacy.budget import Budget
    from sfumato.privacy.distributed import is_first
    from sfumato.release import verify

    rule = {name: value for name, value in asdict(unit).items() if value not in (None, False)}
    rule |= {} if unit.frame is None else {"frame": unit.frame}
    if rule.keys() & UNITS and not paid.publish_metrics:
        raise UsageError("a privacy unit belongs to --publish-metrics: nothing else has a price.")
    real = open_real(against, open_release(release).spec, how.train, rule)
    if (paid.epsilon is None) == paid.publish_metrics:
        raise UsageError("--publish-metrics and --epsilon belong together: give both or neither.")
    if paid.epsilon is not None:
        relation = p.parse_relation(paid.relation)
        budget = Budget(paid.epsilon, paid.delta, relation)
        metrics = publish(release, real, budget, how, run, seed=seed_public)
        verdict = verify(release, allow_large_delta=run.allow_large_delta)
        describe_published(str(release), metrics, verdict, json)
        return
    judged = judge(release, real, how, run, seed=seed_public)
    if not is_first():  # under torchrun one process speaks for all
        return
    path = judged.keep(run.folder)
    if json:
        show.as_json({"result": str(path), **judged.evaluation.to_dict()})
        return
    show.rendered(render(judged.evaluation))
    if how.quick:
        show.line("--quick: not the protocol. Compare these figures with no others.")
    about = "public" if how.public else "private: keep it there"
    show.line(f"result ({about}): {path}")


def describe_published(
    release: str, metrics: dict[str, Any], verdict: Verification, json: bool
) -> None:
    """Print the published metrics."""
    if json:
        show.as_json({"release": release, **metrics, "verified": verdict.to_dict()})
        return
    distance = []
    if found := metrics.get("frechet"):  # a classifier has none
        name = f"Fréchet distance, {found['axes']} axes"
        distance = [
            (name, f"{found['value']:.4g}", f"{found['deviation']:.2g}"),
            ("the same, from noise alone", f"{found['floor']:.4g}", ""),
        ]
    show.table(
        ["metric", "value", "± of the noise"],
        [
            *(
                (f"accuracy, {score['classifier']}", *percent(score["accuracy"]))
                for score in metrics["utility"]
            ),
            *distance,
        ],
    )
    if verdict.metrics_recomputed is not None and verdict.metrics_delta is not None:
        price = show.epsilons(verdict.metrics_recomputed, verdict.metrics_delta)
        show.line(f"cost, for the real test images: {price}")
    show.line(f"published in {release}/metrics.json; the release verifies")


def percent(measured: dict[str, float | None]) -> tuple[str, str]:
    """A published share and its deviation, in percent."""
    value, deviation = measured["value"], measured["deviation"]
    if value is None or deviation is None:
        return "drowned in the noise", ""
    return f"{100 * value:.1f} %", f"{100 * deviation:.1f}"
