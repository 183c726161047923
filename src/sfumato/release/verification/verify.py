"""Verify a release: does it prove its ε, is it whole, and does it hold nothing private?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.data import stated_path
from sfumato.errors import CertificateError, UsageError
from sfumato.privacy import Relation
from sfumato.privacy.budget import delta_problem
from sfumato.release.certificate import (
    Certificate,
    core_of,
    is_classifier,
    own_digest,
    read_certificate,
)
from sfumato.release.files import (
    CARD,
    CLASSIFIER,
    EMBEDDING,
    IMAGES,
    MODEL,
    SAMPLES,
    digests,
    file_digest,
    list_files,
)
from sfumato.release.signature import read_signature
from sfumato.release.strict_json import mismatches
from sfumato.release.verification import arrays, claim, derived, leaks, metrics, pictures
from sfumato.release.verification.redrawn import redraw as redraw_images
from sfumato.release.versions import FIRST_FORMAT, VERSIONS, WRITERS, writer_of

MOST_PROBLEMS = 50
STAMPED = (
    "NOT PRIVATE: the noise of this run came from a known seed, so anybody can subtract it. Such "
    "a release is for tests only and must not be shared."
)
_RELEASE = {
    "made_by": str,
    "format": str,
    "samples": int,
    "seed_public": int,
    "label?": str,
    "balance?": bool,
}
_MADE_BY = ("synthesize", "sample", "fit-embedding", "classify")


@dataclass(frozen=True)
class Verification:
    """What a verified release guarantees.

    ``epsilon_by_relation`` is what the certificate claims, ``recomputed`` is the same by the
    closed form, the accountant that the writer did not use. ``metrics_recomputed`` is what the
    published metrics, if there are any, have cost the images that they were measured on.
    ``signed_by`` is the public key, in hex, of a valid signature; ``signer_expected`` whether it is
    the key that was asked for, None where none was. ``redrawn`` images were made again from the
    model. ``remarks`` say in sentences which, and what this version could not derive again.
    """

    epsilon: float
    delta: float
    relation: str
    unit: str
    epsilon_by_relation: Mapping[Relation, float]
    recomputed: Mapping[Relation, float]
    method: str
    samples: int
    metrics_delta: float | None = None
    metrics_recomputed: Mapping[Relation, float] | None = None
    metrics_unit: str | None = None
    signed_by: str | None = None
    signer_expected: bool | None = None
    redrawn: int = 0
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return asdict(self)


def verify(
    release: str | os.PathLike[str],
    *,
    allow_large_delta: bool = False,
    public_key: str | os.PathLike[str] | None = None,
    redraw: int | str | None = None,
    public_model: str | os.PathLike[str] | None = None,
) -> Verification:
    """Check a release folder against its certificate and for private leftovers.

    Nothing in the folder is trusted: no link is followed, nothing is unpickled, and sizes are
    bounded. ``docs/certificate.md`` lists what is checked and what no check can show.

    Args:
        release: the folder.
        allow_large_delta: accept a δ above 1/1,000, or not below one over the declared number.
        public_key: file with the Ed25519 public key that must have signed the release.
        redraw: how many images, chosen at random, are made again from the model and compared; 0,
            ``"all"``, or None for as many as take some seconds.
        public_model: file of the public model that training must have started from.

    Raises:
        CertificateError: the release fails; the message names every problem.
        UsageError: ``redraw`` is no such number, or ``public_model`` cannot be read.
    """
    folder = stated_path(release, "release")
    certificate = read_certificate(folder)
    more, signed = [], None
    try:
        signed = read_signature(
            folder, certificate, None if public_key is None else Path(public_key)
        )
    except CertificateError as error:
        more.append(str(error))
    check(folder, certificate, more)
    started = _start(certificate, public_model)
    if started.problems:
        raise CertificateError(_verdict(folder, started.problems))
    if not allow_large_delta and (large := list(_large_deltas(certificate))):
        raise CertificateError(_verdict(folder, large))
    again = redraw_images(folder, certificate, redraw)
    if again.problems:
        raise CertificateError(_verdict(folder, again.problems))
    return Verification(
        certificate["epsilon"],
        certificate["delta"],
        certificate["relation"],
        certificate["unit"],
        certificate["epsilon_by_relation"],
        claim.recompute(certificate),
        certificate["method"]["name"],
        certificate["release"]["samples"],
        *_price_of_metrics(certificate),
        signed_by=None if signed is None else signed.fingerprint,
        signer_expected=None if signed is None else signed.expected,
        redrawn=again.images,
        remarks=(*arrays.remarks(certificate), *started.remarks, again.sentence),
    )


def check(folder: Path, certificate: Certificate, more: Sequence[str] = ()) -> None:
    """Raise CertificateError, which names every problem, unless the release is in order.

    more: problems that were found before. δ and the signature are not looked at.
    """
    found = [*more, *problems(folder, certificate)]
    if claim.is_stamped(certificate):
        found.insert(0, STAMPED)
    if found:
        raise CertificateError(_verdict(folder, found))


def _verdict(folder: Path, found: Sequence[str]) -> str:
    shown = "".join(f"\n  - {problem}" for problem in found[:MOST_PROBLEMS])
    more = f"\n  and {len(found) - MOST_PROBLEMS} more" if len(found) > MOST_PROBLEMS else ""
    return f"{folder}: the release fails verification.{shown}{more}"


class _Start(NamedTuple):
    """What is wrong with the public model that training started from, or what to say of it."""

    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def _start(certificate: Certificate, given: str | os.PathLike[str] | None) -> _Start:
    stated = str(certificate["method"]["config"].get("public_model_digest") or "")
    if given is None:
        if not stated:
            return _Start()
        return _Start(
            remarks=(
                f"Training started from the public model {stated:.64}, which is not at hand; to "
                "compare it: --public-model MODEL.",
            )
        )
    path = stated_path(given, "public_model")
    try:
        found = file_digest(path)
    except OSError as error:
        raise UsageError(f"public_model={path}: cannot be read ({error.strerror}).") from None
    if not stated:
        return _Start(("by its certificate, training started from no public model",))
    if found != stated:
        return _Start(
            (f"training started from the public model {stated:.64}, and {path} is {found}",)
        )
    return _Start(
        remarks=(
            f"Training started from {path}. That its images were public is its maker's word: no "
            "check can show it.",
        )
    )


def _large_deltas(certificate: Certificate) -> Iterator[str]:
    for core in (certificate, certificate.get(metrics.PART)):
        if core and (problem := delta_problem(core["delta"], core["spec"]["declared_size"])):
            yield f"{problem}. If that is meant, verify it with --allow-large-delta"


def _price_of_metrics(
    certificate: Certificate,
) -> tuple[float | None, Mapping[Relation, float] | None, str | None]:
    """δ, ε and unit of the published metrics, if there are any."""
    core = certificate.get(metrics.PART)
    if core is None:
        return None, None, None
    return core["delta"], claim.recompute(core), core["unit"]


def problems(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Yield a sentence for everything that is wrong, except the stamp of an insecure run."""
    if certificate.get("digest") != own_digest(certificate):
        yield "the certificate was changed: its digest does not fit it"
    about_claim = list(claim.problems(core_of(certificate)))
    yield from about_claim
    yield from leaks.certificate_leaks(certificate)
    about_release = list(_release_problems(certificate))
    yield from about_release
    try:
        names, unexpected = list_files(folder)
        yield from unexpected
        if unexpected:
            return  # files of any size or kind are not opened
        yield from _changed_files(folder, names, certificate)
        about_leaks = list(leaks.file_leaks(folder, names, claim.is_stamped(certificate)))
        yield from about_leaks
        about_metrics = list(metrics.problems(folder, names, certificate))
        yield from about_metrics
        if not about_claim and not about_release:
            about_files = list(_images(folder, names, certificate))
            yield from about_files
            if MODEL in names and not about_leaks:
                yield from arrays.problems(folder, names, certificate)
            if not about_files and not about_metrics and not about_leaks:
                yield from derived.problems(folder, names, certificate)
    except OSError as error:
        yield f"a file cannot be read ({error.strerror})"


def _release_problems(certificate: Certificate) -> Iterator[str]:
    if certificate.get("format") not in tuple(WRITERS):
        yield f"certificate.format must be one of {', '.join(WRITERS)}"
        return
    first = certificate["format"] == FIRST_FORMAT
    shape = _RELEASE if first else {"sfumato": str, **_RELEASE}
    malformed = list(mismatches(certificate.get("release"), shape, "certificate.release"))
    yield from malformed
    if malformed:
        return
    stated = certificate["release"]
    if stated["made_by"] not in _MADE_BY:
        yield f"certificate.release.made_by must be one of {', '.join(_MADE_BY)}"
    if is_classifier(certificate) != (stated["made_by"] == "classify"):
        yield "a release of images and one of a classifier are made by different commands"
    if is_classifier(certificate) and stated["samples"] != 0:
        yield f"the release of a classifier cannot hold {stated['samples']} images"
    classes = certificate.get("classes")
    if "label" in stated and not (isinstance(classes, list) and stated["label"] in classes):
        yield "certificate.release.label is none of the classes"
    if "balance" in stated and ("label" in stated or not stated["balance"] or not classes):
        yield "certificate.release.balance must be true, and is for all of several classes"
    writer, maker = writer_of(certificate), certificate.get("sfumato")
    if writer not in WRITERS[certificate["format"]]:
        yield f"no version {writer!r:.60} of sfumato wrote the format {certificate['format']}"
    elif maker in VERSIONS and VERSIONS.index(maker) > VERSIONS.index(writer):
        yield f"sfumato {writer} wrote the release of a run of the later version {maker}"


def _changed_files(folder: Path, names: list[str], certificate: Certificate) -> Iterator[str]:
    claimed, release = certificate.get("files"), certificate.get("release")
    if not isinstance(claimed, dict):
        yield "certificate.files must be an object"
        return
    actual, needed = digests(folder, names), {CARD, MODEL}
    if not isinstance(release, dict) or release.get("format") != CLASSIFIER:
        needed |= {IMAGES, SAMPLES}
    for name in sorted(claimed.keys() | actual.keys() | needed):
        if name not in claimed:
            yield f"{name[:200]!r} is not named by the certificate"
        elif name not in actual:
            yield f"{name[:200]!r} is missing"
        elif claimed[name] != actual[name]:
            yield f"{name!r} was changed: its digest is not the certificate's"


def _images(folder: Path, names: list[str], certificate: Certificate) -> Iterator[str]:
    spec = claim.spec_of(certificate)
    images = [name for name in names if name.startswith(f"{IMAGES}/")]
    if is_classifier(certificate):
        for name in [*images[:1], *({SAMPLES, EMBEDDING} & set(names))]:
            yield f"{name[:200]!r} is no part of a classifier's release"
        return
    stated = certificate["release"]
    first = certificate["format"] == FIRST_FORMAT
    found, count = pictures.check_images(folder, images, stated["format"], spec, first)
    yield from found
    if not found and count != stated["samples"]:
        yield f"there are {count} images, but the certificate says {stated['samples']}"


def trusted_core(release: Path, name: str) -> Certificate:
    """The core of a release, after judging its claim, for another release made from its ``name``.

    Raises:
        CertificateError: the claim fails, or the file is not the one that was released.
    """
    certificate = read_certificate(release)
    core = core_of(certificate)
    found = [*claim.problems(core), *leaks.certificate_leaks(core)]
    files, path = certificate.get("files"), release / name
    if path.is_symlink() or not path.is_file():
        found.append(f"{name} is missing")
    elif not isinstance(files, dict) or files.get(name) != file_digest(path):
        found.append(f"{name} was changed: its digest is not the certificate's")
    if found:
        shown = "; ".join(found[:MOST_PROBLEMS])
        raise CertificateError(f"{release}: another release cannot be made from it: {shown}.")
    return core
