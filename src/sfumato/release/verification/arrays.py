"""Whether the released arrays are those of the certificate: the model's form, the noisy embedding.

A model's weights follow from the answers by a training that nobody repeats here. Its method,
specification, configuration, and the names, shapes and types of its arrays follow from the
certificate at once. An embedding is a noisy answer itself, so its digest stands in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

import sfumato
from sfumato.data.spec import PublicSpec
from sfumato.errors import SfumatoError
from sfumato.methods.classifiers.least_squares import LeastSquares
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.registry import (
    WITHOUT_PUBLIC,
    configured,
    find_method,
    load_fitted,
    method_names,
)
from sfumato.privacy.run import answer_digest
from sfumato.release.certificate import is_classifier
from sfumato.release.files import CLASSIFIER, EMBEDDING, IMAGES, MODEL
from sfumato.release.verification.claim import spec_of
from sfumato.release.verification.mechanisms import STEPS_OF_A_CLIP_NORM
from sfumato.release.versions import writer_of

if TYPE_CHECKING:
    from sfumato.privacy import Answer

_FORMAT = "sfumato-embedding/1"
_SUMS = {"total": np.float64, "shared": np.float64}


def problems(folder: Path, names: list[str], certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for everything in which the arrays are not those of the certificate.

    Only for a release in whose claim and files nothing was found.
    """
    if EMBEDDING in names:
        yield from _embedding_problems(folder / EMBEDDING, certificate)
    elif certificate["method"]["name"] == DPMEPF.name and (
        certificate["release"]["made_by"] != "sample"
    ):
        yield f"{EMBEDDING} is missing, which {DPMEPF.name} always releases"
    yield from _model_problems(folder / MODEL, certificate)


def remarks(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Say what of a release cannot be derived by this version, in sentences."""
    name = certificate["method"]["name"]
    if name not in method_names():
        yield (
            f"The method {name!r:.60} is not installed here, so the form of its model, the card "
            "and the report were not derived again."
        )
    elif writer_of(certificate) != sfumato.__version__ != certificate["sfumato"]:
        yield (
            f"It was made by sfumato {writer_of(certificate)}: what follows from the code of that "
            "version (the form of the model, the method's questions) was not derived again."
        )


def _model_problems(path: Path, certificate: Mapping[str, Any]) -> Iterator[str]:
    facts = _metadata(path, "sfumato")
    stated = certificate["method"]
    if set(facts) != {"method", "spec", "config"} or facts["method"] != stated["name"]:
        yield f"{MODEL} is of another method than the certificate's, {stated['name']!r:.60}"
        return
    if facts["spec"] != certificate["spec"]:
        yield f"{MODEL} makes other images than the certificate says: its specification differs"
        return
    known = stated["name"] in method_names()
    if known and find_method(stated["name"]).model.releases != (
        CLASSIFIER if is_classifier(certificate) else IMAGES
    ):
        yield f"the method {stated['name']!r:.60} makes releases of another kind"
        return
    if not known or certificate["sfumato"] != sfumato.__version__:
        return  # see remarks()
    try:
        model = load_fitted(path)
        # Tuples become the lists that a file holds.
        same = json.loads(json.dumps(model.config())) == facts["config"]
        whole = same and _forms(model.tensors()) == _stored(path)
    except SfumatoError:
        whole = False
    if not whole:
        yield f"{MODEL}: its arrays are not those of the model that its configuration states"
        return
    if model.answer is not None and not _is_answer(model.answer, certificate):
        yield f"{MODEL} holds none of the noisy answers that the ledger names"
    axes = [query["axes_digest"] for query in certificate["queries"] if query.get("axes_digest")]
    held = facts["config"].get("axes_digest")  # not every model holds the axes that were asked by
    if held is not None and any(digest != held for digest in axes):
        yield f"{MODEL} holds other public axes than the query names"
    spec, queries = spec_of(certificate), []
    try:
        method = configured(stated["name"], stated["config"])
        config = method.config()
        expected = method.model_config(spec)
        if isinstance(method, LeastSquares) and method.public_digest:
            from sfumato.methods.classifiers.ridge import LeastSquaresClassifier

            # The public images are not at hand, but the axes that were fitted on them are.
            own = model.coordinates if isinstance(model, LeastSquaresClassifier) else None
            asked = method.queries(spec, own)
        else:
            asked = method.queries(spec)
        queries = json.loads(json.dumps([query.to_dict() for query in asked]))
    except (SfumatoError, TypeError, ValueError, LookupError, ArithmeticError, RuntimeError):
        config, expected = {}, {}
    if {**config, **WITHOUT_PUBLIC} != {**stated["config"], **WITHOUT_PUBLIC}:
        yield f"method {stated['name']!r}: its configuration is outside the rules of the method"
    elif not _agrees(facts["config"], expected):
        yield f"{MODEL} is of another form than the method makes with its configuration"
    elif _known(queries) != _known(certificate["queries"]):
        yield "the queries are not those that the method asks with its configuration"


def _known(queries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: WITHOUT_PUBLIC.get(key, value) for key, value in query.items()} for query in queries
    ]


def _forms(tensors: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(array.dtype), array.shape) for name, array in tensors.items()}


def _stored(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    with safe_open(path, framework="np") as file:
        return _forms({name: file.get_tensor(name) for name in file.keys()})


def _agrees(stated: Any, expected: Any) -> bool:
    """Whether everything that is expected is stated, at any depth."""
    if isinstance(expected, Mapping) and isinstance(stated, Mapping):
        return all(_agrees(stated.get(key), value) for key, value in expected.items())
    return bool(json.loads(json.dumps(expected)) == stated)


def _metadata(path: Path, key: str) -> dict[str, Any]:
    """JSON in a safetensors file's metadata; its form has been checked by the linter."""
    with safe_open(path, framework="np") as file:
        value = json.loads((file.metadata() or {}).get(key, "{}"))
    return value if isinstance(value, dict) else {}


def _embedding_problems(path: Path, certificate: Mapping[str, Any]) -> Iterator[str]:
    facts = _metadata(path, "embedding")
    about = {key: facts.get(key) for key in ("spec", "config")}
    if set(facts) != {"noise_std", "spec", "config"}:
        yield f"{EMBEDDING} does not say what was embedded how"
    elif about != {"spec": certificate["spec"], "config": certificate["method"]["config"]}:
        yield f"{EMBEDDING} is of another specification or configuration than the certificate"
    else:
        from sfumato.privacy import Answer

        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        answer = None
        if {name: array.dtype for name, array in arrays.items()} == _SUMS:
            answer = Answer(arrays["total"], arrays["shared"], facts["noise_std"])
        if answer is None or not _is_answer(answer, certificate):
            yield f"{EMBEDDING} is none of the noisy answers that the ledger names"


def _is_answer(answer: Answer, certificate: Mapping[str, Any]) -> bool:
    """Whether the ledger names the digest of this noisy answer to one of the sums."""
    named = {
        entry["name"]: entry["answer"]
        for entry in certificate["ledger"]
        if entry["kind"] == "answer"
    }
    for query, event in zip(certificate["queries"], certificate["events"], strict=True):
        if query["query"] == "sum" and answer.noise_std == event["noise_std"]:
            grid = _on_grid(answer, query, event, spec_of(certificate))
            if grid is not None and answer_digest(grid) == named[query["name"]]:
                return True
    return False


def _on_grid(
    answer: Answer, query: Mapping[str, Any], event: Mapping[str, Any], spec: PublicSpec
) -> NDArray[np.int64] | None:
    """The answer in steps of its grid, int64 ``[n]``, or None where the arrays are of no answer."""
    rows = max(1, len(spec.classes)) if query.get("by_class") else 1
    dimension, shared = query.get("dimension"), query.get("shared", 0)
    if answer.total.shape != (rows, dimension - shared) or answer.shared.shape != (shared,):
        return None
    values = np.concatenate([answer.total.ravel(), answer.shared])
    step = event["clip_norm"] / STEPS_OF_A_CLIP_NORM
    with np.errstate(all="ignore"):
        steps = np.rint(values / step)
        if not (np.abs(steps) < 2.0**53).all() or not np.array_equal(steps * step, values):
            return None
    return steps.astype(np.int64)
