"""Buy metrics on real images: answered by the curator with noise, charged, put into the release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sfumato.errors import UsageError
from sfumato.evaluation.classifiers import quick
from sfumato.evaluation.evaluate import FIDELITY_IMAGES
from sfumato.evaluation.extractors import SHIPPED, extract, load_extractor
from sfumato.evaluation.judging import CACHE, Real, open_release
from sfumato.evaluation.metric_queries import FrechetQuery, RecallQuery
from sfumato.evaluation.training import fit
from sfumato.options import EvaluationOptions, RunOptions, gathered
from sfumato.privacy import Budget, Curator, Query, make_plan
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.spending import ledger_of
from sfumato.progress import stage
from sfumato.release import attach_metrics, make_core, verify


def publish(
    release: Path,
    real: Real,
    budget: Budget,
    *objects: Any,
    seed: int = 0,
    **stated: Any,
) -> dict[str, Any]:
    """Spend ``budget`` of the test images in ``real`` on metrics, and put them into ``release``.

    Accuracy and recall by class of classifiers trained on the released images, and a Fréchet
    distance along a few public axes: one plan of sum queries, charged to the ledger of the test
    images. The release then holds ``metrics.json``, and its certificate accounts for it.

    Args:
        objects, stated: :class:`EvaluationOptions` and :class:`RunOptions`, or their fields.

    Guarantee: (ε, δ)-differential privacy of the published metrics for the test images, under the
    budget's relation and for the units that ``real.test`` was opened with.

    Raises:
        CertificateError: the release does not verify; nothing is charged.
        UsageError: the release has published metrics already, or an option is outside its rule.
        BudgetExceededError: the cap of the test images does not allow it.
    """
    how, run = gathered("publish", [EvaluationOptions, RunOptions], objects, stated)
    classifiers = [quick(name) for name in how.classifiers] if how.quick else how.classifiers
    verify(release)
    released = open_release(release)
    if "published_metrics" in released.certificate:
        raise UsageError(
            f"{release} holds published metrics already. Draw its images into another release with "
            "sfumato sample, and publish that one's."
        )
    cache = real.folder(run.folder) / CACHE
    synthetic = released.images()
    about = {"release": released.digest, "seed_public": seed}

    utility = None
    if synthetic.classes and classifiers:
        fitted = []
        for name in classifiers:
            with stage(f"{name} on synthetic images", run.quiet) as report:
                fitted.append(fit(synthetic, name, seed, cache=cache, report=report))
        utility = RecallQuery(fitted, about)
    chosen = load_extractor(how.network or SHIPPED)
    count = min(FIDELITY_IMAGES, len(synthetic.images))
    drawn = np.random.default_rng(seed).choice(len(synthetic.images), count, replace=False)
    with stage("features of synthetic images", run.quiet) as report:
        features = extract(chosen, synthetic.images[np.sort(drawn)], cache, report)
    fidelity = FrechetQuery(chosen, features, about)

    queries: list[Query] = [*([utility.query] if utility else []), fidelity.query]
    ledger = ledger_of(real.test, run.folder)
    curator = Curator(
        real.test,
        budget,
        state=run.folder,
        fresh=run.fresh,
        same_data_as=run.same_data_as,
        independent_data=run.independent_data,
        quiet=run.quiet,
    )
    method = {"name": "publish-metrics", "config": {"classifiers": list(classifiers)}}
    curator.open_plan(make_plan(method, queries, budget, curator.spec))
    measured = utility.read(curator.sum(utility.query.name)) if utility else []
    metrics: dict[str, Any] = {
        "utility": measured,
        "frechet": fidelity.read(curator.sum(fidelity.query.name)),
        "same_data_set_as_release": _same_data_set(released.certificate, ledger),
    }
    attach_metrics(release, make_core(curator.record()), metrics)
    curator.close()
    return metrics


def _same_data_set(certificate: dict[str, Any], ledger: DataSetLedger) -> bool:
    """Whether the release was made from the same images, whose ledger then names its run."""
    run = certificate["ledger"][0]["run"]
    with ledger.locked():
        return any(entry.get("run") == run for entry in ledger.family_entries())
