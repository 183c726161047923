"""Published metrics: a file in the release, and the certificate's part that pays for it.

That part is a core of its own, with its own plan, events and ledger entries, because the images
that were measured need not be those that the release was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.errors import CertificateError
from sfumato.release import strict_json
from sfumato.release.files import METRICS
from sfumato.release.verification import claim, leaks

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
    "same_data_set_as_release": bool,
}


def problems(folder: Path, names: list[str], certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for everything that is wrong with published metrics, if there are any."""
    core = certificate.get(PART)
    if core is None:
        if METRICS in names:
            yield f"{METRICS} is accounted for by nothing in the certificate"
        return
    for problem in (*claim.problems(core), *leaks.certificate_leaks(core)):
        yield f"{PART}: {problem}"
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
    yield from strict_json.mismatches(metrics, _SHAPE, METRICS)
    for _, path, item in strict_json.walk(metrics):
        # A share that the noise drowned has neither value nor deviation.
        if path[-1:] in (("value",), ("deviation",)) and not isinstance(
            item, (int, float, type(None))
        ):
            yield f"{METRICS}: {'.'.join(path)[:200]} must be a number or null"
