"""The machine-readable claim of a release: what was asked, with how much noise, at what price.

The **core** states what one run of the curator spent and is shared by every release that is
computed from its answers; a release adds its number of images and the digests of its files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sfumato
from sfumato.data.spec import PublicSpec
from sfumato.errors import CertificateError
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.release import strict_json
from sfumato.release.files import CLASSIFIER, MODEL, is_mock
from sfumato.release.versions import FORMAT, WRITERS

Certificate = dict[str, Any]

NAME = "certificate.json"
RECORD = "record"
"""The privacy unit unless the run was told which records are one."""
NOT_PRIVATE = "NOT PRIVATE"
"""How the noise path of an insecure run begins, and so its stamp."""

_OF_ONE_RELEASE = ("format", "release", "files", "published_metrics", "digest")


def make_core(record: Mapping[str, Any]) -> Certificate:
    """State what a run spent, from what ``Curator.record()`` returned."""
    noise = record["noise"]
    core = {
        "sfumato": sfumato.__version__,
        "private": noise if NOT_PRIVATE in noise else True,
        "unit": PublicSpec.from_dict(record["spec"]).unit_in_words,
        "classes": record["spec"]["classes"],
        "encoder": encoder_of(record["queries"]),
        **record,
        "ledger": public_entries(record["ledger"]),
    }
    # Tuples become the lists that a reader will see.
    normal: Certificate = json.loads(json.dumps(core, allow_nan=False))
    return normal


def encoder_of(queries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Name and weights digest of the public encoder that a plan's queries name, if any does."""
    for query in queries:
        if "encoder" in query:
            return {"name": query["encoder"], "digest": query.get("encoder_digest")}
    return None


def public_entries(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A run's ledger entries without their times, chained anew.

    The time from a plan to its answer says how long the private images took to read, and so about
    how many there are. The ledger's own hashes stay out too: whoever knows the rest of an entry
    could search for the time that gives its hash.
    """
    chain: list[dict[str, Any]] = []
    for entry in entries:
        if entry["kind"] in ("plan", "answer"):
            body = {k: v for k, v in entry.items() if k not in ("seq", "time", "hash")}
            chain.append(seal({**body, "prev": chain[-1]["hash"] if chain else GENESIS}))
    return chain


def is_classifier(certificate: Mapping[str, Any]) -> bool:
    """Whether the release is a private classifier, which holds no images."""
    return bool(certificate["release"]["format"] == CLASSIFIER)


def core_of(certificate: Mapping[str, Any]) -> Certificate:
    """The part of a release's certificate that other releases of the same answers share."""
    return {key: value for key, value in certificate.items() if key not in _OF_ONE_RELEASE}


def content_digest(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of claim, model, and how images were sampled from it: the same in every format."""
    how = {key: value for key, value in certificate["release"].items() if key != "format"}
    model = certificate["files"].get(MODEL)
    return digest({**core_of(certificate), "release": how, MODEL: model})


def complete(
    core: Mapping[str, Any],
    release: Mapping[str, Any],
    files: Mapping[str, str],
    published_metrics: Mapping[str, Any] | None = None,
    format: str = FORMAT,
) -> Certificate:
    """Add how one release was made, its file digests, and the digest over all of it.

    published_metrics: the core of the run that paid for the release's metrics, if one did.
    format: the first one for a release that was written in it and is added to.
    """
    body = {"format": format, **core, "release": dict(release), "files": dict(files)}
    if published_metrics is not None:
        body["published_metrics"] = dict(published_metrics)
    return {**body, "digest": digest(body)}


def own_digest(certificate: Mapping[str, Any]) -> str:
    """The digest that the certificate should carry."""
    return digest({key: value for key, value in certificate.items() if key != "digest"})


def to_bytes(certificate: Mapping[str, Any]) -> bytes:
    """The certificate as the text that people read."""
    return json.dumps(certificate, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_certificate(release: Path) -> Certificate:
    """Read a release's certificate; nothing in it is believed yet.

    Raises:
        CertificateError: the folder is a mock, or the certificate is missing, a link, too large, or
            not the JSON that it should be.
    """
    path = release / NAME
    if is_mock(release):
        raise CertificateError(
            f"{release} is a mock: random images for building a pipeline, made from declared facts "
            "alone, that prove nothing and protect nobody."
        )
    if path.is_symlink() or not path.is_file():
        raise CertificateError(f"{release}: no {NAME} there, so this is not a release.")
    try:
        with open(path, "rb") as file:
            data = file.read(strict_json.LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror}).") from None
    certificate = strict_json.parse(data, NAME)
    if certificate.get("format") not in tuple(WRITERS):  # it may be a list, which has no hash
        raise CertificateError(
            f"{NAME} is of none of the formats {', '.join(WRITERS)}. Use the version of sfumato "
            "that wrote it."
        )
    return certificate
