"""The leak linter: what must not stand in a release, whatever its certificate claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sfumato.errors import CertificateError
from sfumato.release import strict_json
from sfumato.release.files import CARD, EMBEDDING, MODEL, REPORT, SAMPLES
from sfumato.release.verification.pictures import png_problem
from sfumato.release.writing.markup import page_leaks

_WORDS = re.compile(r"[a-z]+|\d+")
_TENSOR = frozenset(
    "discriminator critic teacher teachers optim optimizer optimiser adam exp momentum grad grads "
    "gradient gradients sum sums raw unnoised noiseless private record records example examples "
    "norms loss losses seed key".split()
)
"""Words in a tensor's name that tell of something that never leaves the curator."""

_NEVER = frozenset(
    "seed seed_private private_seed noise_seed insecure_seed rng_state secret secrets key keys "
    "path paths location filename filenames file_name file_names folder directory hostname host "
    "user username email class_counts label_counts num_records n_records number_of_records records "
    "num_examples n_examples num_images n_images dataset_size norms grad_norms gradient_norms "
    "metrics raw_sum raw_sums unnoised teacher_votes votes fingerprint".split()
)
_NOT_AS_NUMBER = frozenset(
    "count counts n loss losses train_loss val_loss test_loss norm accuracy acc balanced_accuracy "
    "fid kid auroc auc f1 precision recall inception_score mean_norm max_norm".split()
)
"""Keys that name a choice when their value is a text, and a measurement when it is a number."""

_TEXTS = {
    "run": re.compile(r"[0-9a-f]{1,64}"),
    "answer": re.compile(r"[0-9a-f]{64}"),
    "accountant": re.compile(r"\w{1,40} [\w.+]{1,40} PLD"),
}
"""Texts of a certificate that nothing else determines, and all that they may say."""

_METADATA = {MODEL: {"sfumato"}, EMBEDDING: {"format", "embedding"}}

_PATH = re.compile(
    r"(?:^|[\s\"'(=\[>`,])"
    r"((?:/(?:home|Users|root|tmp|var|mnt|media|data|datasets|srv|opt|work|scratch|private)/"
    r"|[A-Za-z]:[\\/]|~/|file://)[^\s\"'<>]*)"
)


def json_leaks(value: Any, where: str) -> Iterator[str]:
    """Find keys and texts in free-form JSON that tell of something private."""
    for _, path, item in strict_json.walk(value):
        key = path[-1].lower() if path else ""
        number = isinstance(item, (int, float)) and not isinstance(item, bool)
        numbers = isinstance(item, list) and all(isinstance(x, (int, float)) for x in item)
        if key in _NEVER or (key in _NOT_AS_NUMBER and (number or numbers)):
            yield f"{where}: {'.'.join(path)[:200]} may be a private value"
        if isinstance(item, str) and (item.startswith("/") or _PATH.search(item)):
            yield f"{where}: {'.'.join(path)[:200]} holds an absolute path"


def certificate_leaks(certificate: dict[str, Any]) -> Iterator[str]:
    """Find leaks in those parts of a certificate that have no fixed shape."""
    ledger = certificate.get("ledger")
    for entry in [certificate, *(ledger if isinstance(ledger, list) else [])]:
        for key, pattern in _TEXTS.items() if isinstance(entry, dict) else ():
            if key in entry and not pattern.fullmatch(str(entry[key])):
                yield f"certificate: {key} says more than its form allows"
    for part in ("method", "encoder", "unit"):
        yield from json_leaks(certificate.get(part), f"certificate.{part}")
    queries = certificate.get("queries")
    for index, query in enumerate(queries if isinstance(queries, list) else []):
        yield from json_leaks(query, f"certificate.queries[{index}]")


def file_leaks(release: Path, names: list[str], stamped: bool) -> Iterator[str]:
    """Find leaks in the files beside the images; their sizes have been checked.

    stamped: the certificate says itself that nothing is private; only then a report may say so.
    """
    for name in (MODEL, EMBEDDING):
        if name in names:
            yield from tensor_leaks(release / name, name)
    if SAMPLES in names and (problem := png_problem((release / SAMPLES).read_bytes(), None)):
        yield f"{SAMPLES} {problem}"
    for name in (CARD, REPORT):
        if name in names:
            text = (release / name).read_text(encoding="utf-8", errors="replace")
            if found := _PATH.search(text):
                yield f"{name} holds an absolute path, {found[1][:100]!r}"
            if "<!--" in text:
                yield f"{name} holds a comment that no reader sees"
            if name == REPORT:
                yield from (f"{name} {problem}" for problem in page_leaks(text, stamped))


def _safetensors_header(path: Path, name: str) -> dict[str, Any]:
    """The header as it stands, in which a second entry of the same name would be overlooked."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return strict_json.parse(file.read(min(length, strict_json.LARGEST + 1)), f"{name}, header")


def tensor_leaks(path: Path, name: str) -> Iterator[str]:
    """Find private tensors and metadata in a safetensors file; no tensor is loaded."""
    try:
        with safe_open(path, framework="np") as file:
            tensors, metadata = list(file.keys()), file.metadata() or {}
        header = _safetensors_header(path, name)
    except (SafetensorError, OSError, ValueError):
        yield f"{name} is no valid safetensors file"
        return
    except CertificateError as error:
        yield str(error)
        return
    for tensor, about in header.items():
        if tensor != "__metadata__" and set(about) != {"dtype", "shape", "data_offsets"}:
            yield f"{name}: the header says more of {tensor[:100]!r} than its form"
    for tensor in tensors:
        if words := _TENSOR & set(_WORDS.findall(tensor.lower())):
            yield f"{name}: the tensor {tensor[:100]!r} may be a private {min(words)}"
    for key, text in sorted(metadata.items()):
        if key not in _METADATA[name]:
            yield f"{name}: the metadata {key[:100]!r} does not belong there"
        elif key != "format":
            try:
                value = strict_json.parse(text.encode(), f"{name}, {key}")
            except CertificateError as error:
                yield str(error)
            else:
                yield from json_leaks(value, f"{name}: {key}")
