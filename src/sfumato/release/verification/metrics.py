"""Published metrics: a file in the release, and the certificate's part that pays for it.

That part is a core of its own, with its own plan, events and ledger entries, because the images
that were measured need not be those that the release was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import CertificateError
from sfumato.privacy.run import answer_digest
from sfumato.release import strict_json
from sfumato.release.certificate import content_digest
from sfumato.release.files import METRICS
from sfumato.release.recall import recalls
from sfumato.release.verification import claim, leaks
from sfumato.release.verification.mechanisms import STEPS_OF_A_CLIP_NORM
from sfumato.release.versions import FIRST_FORMAT, WRITERS

if TYPE_CHECKING:
    from sfumato.privacy import Answer

PART = "published_metrics"

_MEASURED = {"value": object, "deviation": object}
_SHAPE = {
    "utility": [
        {"classifier": str, "training_count?": int, "accuracy": _MEASURED, "recall": [_MEASURED]}
    ],
    "frechet?": {
        "value": float,
        "deviation": float,
        "floor": float,
        "encoder": str,
        "encoder_digest": str,
        "axes": int,
        "radius": float,
        "synthetic_count": int,
    },
    "answers?": {"recall?": [int], "frechet?": [int]},
    "same_data_set_as_release": bool,
}
ROUNDING = 1e-9
"""Relative difference that another order of adding a few numbers may make."""


def in_steps(answer: Answer, clip_norm: float) -> NDArray[np.int64]:
    """A noisy sum in steps of its grid, as the curator drew it and the ledger has its digest."""
    values = np.concatenate([answer.total.ravel(), answer.shared])
    return np.rint(values * (STEPS_OF_A_CLIP_NORM / clip_norm)).astype(np.int64)


def problems(folder: Path, names: list[str], certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with published metrics, if there are any."""
    core = certificate.get(PART)
    if core is None:
        if METRICS in names:
            yield f"{METRICS} is accounted for by nothing in the certificate"
        return
    about_claim = [*claim.problems(core), *leaks.certificate_leaks(core)]
    yield from (f"{PART}: {problem}" for problem in about_claim)
    if claim.is_stamped(core):
        yield f"{PART}: the noise came from a known seed, so anybody can subtract it"
    if METRICS not in names:
        yield f"{METRICS} is missing"
        return
    try:
        metrics = strict_json.parse((folder / METRICS).read_bytes(), METRICS)
    except CertificateError as error:
        yield str(error)
        return
    malformed = list(strict_json.mismatches(metrics, _SHAPE, METRICS))
    yield from malformed
    for _, path, item in strict_json.walk(metrics):
        # A share that the noise drowned has neither value nor deviation.
        if path[-1:] in (("value",), ("deviation",)) and type(item) not in (int, float, type(None)):
            yield f"{METRICS}: {'.'.join(path)[:200]} must be a number or null"
            return
    held = (certificate.get("release"), certificate.get("files"))
    if malformed or about_claim or not all(isinstance(part, dict) for part in held):
        return
    first = certificate.get("format") == FIRST_FORMAT and core["sfumato"] in WRITERS[FIRST_FORMAT]
    if not first:  # which kept no answers
        yield from _not_derived(metrics, core, certificate)


def _not_derived(
    metrics: Mapping[str, Any], core: Mapping[str, Any], certificate: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a sentence for everything that does not follow from the noisy answers."""
    entries = (entry for entry in core["ledger"] if entry["kind"] == "answer")
    named = {entry["name"]: entry["answer"] for entry in entries}
    answers = metrics.get("answers", {})
    asked = {query["name"]: query for query in core["queries"]}
    if asked.keys() != answers.keys():
        yield f"{METRICS} must hold the answers to {', '.join(map(str, asked))[:200]}"
        return
    for query, event in zip(core["queries"], core["events"], strict=True):
        name = query["name"]
        if query["query"] != "sum":
            yield f"{PART}: {name} is no sum"
            continue
        if query.get("release") != content_digest(certificate):
            yield f"{PART}: {name} was measured of another release"
        steps = answers[name]
        fits = all(abs(number) < 2**63 for number in steps)
        if not fits or answer_digest(np.array(steps, np.int64)) != named[name]:
            yield f"{METRICS}: the answer to {name} is not the one that the ledger names"
        elif name == "recall":
            counts = np.array(steps, np.float64) * (event["clip_norm"] / STEPS_OF_A_CLIP_NORM)
            yield from _other_recalls(metrics["utility"], query, counts, event["noise_std"])
        elif any(value != query.get(key) for key, value in _described(metrics).items()):
            yield f"{METRICS}: frechet was measured in another way than the query says"
    unasked = bool(metrics["utility"]) and "recall" not in asked
    if unasked or ("frechet" in metrics) != ("frechet" in asked):
        yield f"{METRICS} holds scores that were not asked for"


def _described(metrics: Mapping[str, Any]) -> dict[str, Any]:
    stated = metrics.get("frechet", {})
    return {key: stated[key] for key in stated.keys() - {"value", "deviation", "floor"}}


def _other_recalls(
    stated: Sequence[Mapping[str, Any]],
    query: Mapping[str, Any],
    counts: NDArray[np.float64],
    noise_std: float,
) -> Iterator[str]:
    names = query.get("classifiers")
    columns = 2 * len(names) if isinstance(names, list) else 0
    if not columns or not len(counts) or len(counts) % columns:
        yield f"{PART}: recall does not say of which classifiers"
        return
    derived = recalls(counts.reshape(-1, columns), noise_std)
    if [score.get("training_count") for score in stated] != query.get("training_counts"):
        yield f"{METRICS}: a training_count is not the one that the query names"
    if [score["classifier"] for score in stated] != names or not all(
        len(score["recall"]) == len(right["recall"])
        and all(
            _same(one[key], other[key])
            for one, other in zip(
                [score["accuracy"], *score["recall"]],
                [right["accuracy"], *right["recall"]],
                strict=True,
            )
            for key in _MEASURED
        )
        for score, right in zip(stated, derived, strict=True)
    ):
        yield f"{METRICS}: utility is not what the noisy answer gives"


def _same(one: int | float | None, other: int | float | None) -> bool:
    if one is None or other is None:
        return one is other
    try:
        return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    except OverflowError:  # an integer beyond all floats
        return False
