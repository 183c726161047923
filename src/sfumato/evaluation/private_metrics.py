"""Buy metrics on real images: answered by the curator with noise, charged, put into the release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.devices import computing_device
from sfumato.errors import UsageError
from sfumato.evaluation.classifiers import quick
from sfumato.evaluation.evaluate import FIDELITY_IMAGES
from sfumato.evaluation.extractors import SHIPPED, extract, load_extractor
from sfumato.evaluation.judging import CACHE, Real, Released, open_classifier, open_release
from sfumato.evaluation.metric_queries import FrechetQuery, Named, RecallQuery
from sfumato.evaluation.training import fit
from sfumato.options import EvaluationOptions, RunOptions, check_seed, gathered
from sfumato.privacy import Budget, Curator, Query, distributed, make_plan
from sfumato.privacy.budget import check_delta
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.spending import ledger_of
from sfumato.progress import stage
from sfumato.release import attach_metrics, make_core, verify
from sfumato.release.certificate import content_digest, is_classifier
from sfumato.release.verification.metrics import in_steps


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
    distance along a few public axes; of a released classifier its own accuracy and recall. They are
    one plan of sum queries, charged to the ledger of the test images. The release then holds
    ``metrics.json``, and its certificate accounts for it.

    Args:
        objects, stated: :class:`EvaluationOptions` and :class:`RunOptions`, or their fields.

    Guarantee: (ε, δ)-differential privacy of the published metrics for the test images, under the
    budget's relation and for the units that ``real.test`` was opened with.

    Raises:
        CertificateError: the release does not verify; nothing is charged.
        UsageError: the release has published metrics already, or an option is outside its rule.
        BudgetExceededError: the cap of the test images does not allow it.
    """
    distributed.check_alone("--publish-metrics")
    how, run = gathered("publish", [EvaluationOptions, RunOptions], objects, stated)
    check_seed(seed)
    classifiers = [quick(name) for name in how.classifiers] if how.quick else how.classifiers
    check_delta(budget.delta, real.test.spec.declared_size, run.allow_large_delta)
    device = computing_device(run.device, run.quiet)
    verify(release, allow_large_delta=run.allow_large_delta)
    released = open_release(release)
    if "published_metrics" in released.certificate:
        raise UsageError(
            f"{release} holds published metrics already. Draw its images into another release with "
            "sfumato sample, and publish that one's."
        )
    about = {"release": content_digest(released.certificate), "seed_public": seed}
    fidelity = None
    if is_classifier(released.certificate):
        classifiers = [released.certificate["method"]["name"]]
        own = open_classifier(released)
        own.move(device)
        utility: RecallQuery | None = RecallQuery([Named.released(classifiers[0], own)], about)
    else:
        asked = replace(how, classifiers=classifiers)
        utility, fidelity = _of_images(released, real, about, asked, run, device)
    parts = [part.query for part in (utility, fidelity) if part is not None]
    queries: list[Query] = [*parts]
    ledger = ledger_of(real.test, run.folder)
    curator = Curator(
        real.test,
        budget,
        state=run.folder,
        fresh=run.fresh,
        same_data_as=run.same_data_as,
        independent_data=run.independent_data,
        quiet=run.quiet,
        device=device,
    )
    method = {"name": "publish-metrics", "config": {"classifiers": list(classifiers)}}
    curator.open_plan(make_plan(method, queries, budget, curator.spec))
    answers = {query.name: curator.sum(query.name) for query in parts}
    metrics: dict[str, Any] = {
        "utility": utility.read(answers[utility.query.name]) if utility else [],
        **({"frechet": fidelity.read(answers[fidelity.query.name])} if fidelity else {}),
        "answers": {
            query.name: in_steps(answers[query.name], query.clip_norm).tolist() for query in parts
        },
        "same_data_set_as_release": _same_data_set(released.certificate, ledger),
    }
    attach_metrics(release, make_core(curator.record()), metrics)
    curator.close()
    return metrics


def _of_images(
    released: Released,
    real: Real,
    about: dict[str, Any],
    how: EvaluationOptions,
    run: RunOptions,
    device: torch.device,
) -> tuple[RecallQuery | None, FrechetQuery]:
    """What is asked about the images of a release."""
    cache, seed = real.folder(run.folder) / CACHE, about["seed_public"]
    synthetic, utility = released.images(), None
    if synthetic.classes and how.classifiers:
        fitted = []
        for name in how.classifiers:
            with stage(f"{name} on synthetic images", run.quiet) as report:
                fitted.append(fit(synthetic, name, seed, cache, report, device))
        utility = RecallQuery(fitted, about)
    chosen = load_extractor(how.network or SHIPPED, device)
    count = min(FIDELITY_IMAGES, len(synthetic.images))
    drawn = np.random.default_rng(seed).choice(len(synthetic.images), count, replace=False)
    with stage("features of synthetic images", run.quiet) as report:
        features = extract(chosen, synthetic.images[np.sort(drawn)], cache, report)
    return utility, FrechetQuery(chosen, features, about)


def _same_data_set(certificate: dict[str, Any], ledger: DataSetLedger) -> bool:
    """Whether the release was made from the same images, whose ledger then names its run."""
    run = certificate["ledger"][0]["run"]
    with ledger.locked():
        return any(entry.get("run") == run for entry in ledger.family_entries())
