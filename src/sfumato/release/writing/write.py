"""Write a release whole or not at all."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import sfumato
from sfumato.data.writers import write_images
from sfumato.errors import CertificateError, UsageError
from sfumato.methods.base import Batch, Fitted, Model
from sfumato.release import certificate as certificates
from sfumato.release.certificate import NAME, Certificate
from sfumato.release.files import (
    CARD,
    CLASSES,
    CLASSIFIER,
    EMBEDDING,
    IMAGES,
    LARGEST,
    METRICS,
    MOCK,
    MODEL,
    REPORT,
    SAMPLES,
    SIGNATURE,
    digests,
    file_digest,
    is_mock,
    list_files,
)
from sfumato.release.verification.leftovers import writing_into
from sfumato.release.verification.verify import problems
from sfumato.release.versions import FORMAT
from sfumato.release.writing.card import make_card
from sfumato.release.writing.grid import SampleGrid
from sfumato.release.writing.swap import exchange

SYNTHESIZED = MappingProxyType({"made_by": "synthesize", "seed_public": 0})


def check_target(out: Path, force: bool = False) -> None:
    """Refuse a place where a release would destroy something else, or could not be written.

    Raises:
        UsageError: ``out`` is a file, holds a release and ``force`` is not given, or holds
            anything else; or the system lets nothing be written there.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"out={out} is a file or a link. Name a new folder.")
    if out.is_dir() and any(out.iterdir()):
        if not _is_release(out):
            raise UsageError(
                f"out={out} holds files that are no release, so it is never replaced. Name a new "
                "or empty folder."
            )
        if not force:
            raise UsageError(
                f"out={out} already holds a release. Name another folder, or replace it with "
                "--force (force=True)."
            )
    place = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        # As long a name as the release has while it is written.
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".try_", dir=place):
            pass
    except OSError as error:
        raise UsageError(
            f"out={out}: nothing can be written into {place} ({error.strerror}). Name a folder "
            "where that is allowed and there is space."
        ) from error


def _is_release(folder: Path) -> bool:
    """Whether a folder holds a release, or a mock of one, and nothing else."""
    names = {path.name for path in folder.iterdir()}
    if is_mock(folder):
        return names <= {MOCK, CARD, SAMPLES, CLASSES, IMAGES}
    try:
        certificates.read_certificate(folder)
    except CertificateError:
        return False
    return names <= {*LARGEST, IMAGES}


def write_release(
    out: Path,
    model: Fitted,
    core: Mapping[str, Any],
    batches: Iterable[Batch] = (),
    *,
    format: str = "folder",
    made: Mapping[str, Any] = SYNTHESIZED,
    force: bool = False,
) -> Path:
    """Write a release into ``out`` and return it; a crash leaves the old state of ``out``.

    Args:
        out: a new or empty folder, or a release to replace with ``force``.
        model: the released model or classifier; a model's ``embedding``, if it has one, is
            released too.
        core: what the run spent, ``make_core(curator.record())`` or another release's.
        batches: a model's images uint8 ``[b, c, h, w]`` and labels int64 ``[b]``, streamed.
        format: ``folder``, ``parquet`` or ``webdataset``.
        made: what its certificate says under ``release``: the command, ``made_by``; the public
            seed, ``seed_public``; ``label`` or ``balance`` where classes were asked for.

    Raises:
        UsageError: ``out`` holds something else.
        CertificateError: what was written does not pass :func:`verify`; nothing is left of it.
    """
    check_target(out, force)
    with replacing(out) as part:
        _fill(part, model, core, batches, format, made)
    return out


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of ``out`` if the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    part = out.with_name(f".{out.name}.{mark}.part")
    with writing_into(out.parent, f".{glob.escape(out.name)}.????????.part"):
        part.mkdir()
        try:
            yield part
            _make_durable()
            if not out.exists():
                part.rename(out)
            elif not exchange(part, out):  # else the old one is removed below
                old = out.with_name(f".{out.name}.{mark}.old")
                out.rename(old)
                part.rename(out)
                shutil.rmtree(old)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _fill(
    part: Path,
    model: Fitted,
    core: Mapping[str, Any],
    batches: Iterable[Batch],
    format: str,
    made: Mapping[str, Any],
) -> None:
    _save_model(part / MODEL, model, core)
    count = 0
    if isinstance(model, Model):
        grid = SampleGrid(model.spec)
        count = write_images(grid.watching(batches), model.spec.classes, part, format)
        (part / SAMPLES).write_bytes(grid.to_png())
        if model.embedding is not None:
            model.embedding.save(part / EMBEDDING)
            # safetensors makes files that only their owner can read; a release is to be shared.
            shutil.copymode(part / SAMPLES, part / EMBEDDING)
    else:
        format = CLASSIFIER
    release = {"sfumato": sfumato.__version__, **made, "format": format, "samples": count}
    if found := finish(part, core, release):
        raise CertificateError(
            f"the release was not published, because it does not verify: {'; '.join(found[:10])}. "
            "The run can go on: run the same command again once this is mended."
        )


def finish(
    part: Path,
    core: Mapping[str, Any],
    release: Mapping[str, Any],
    paid: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    format: str = FORMAT,
) -> list[str]:
    """Write card and certificate beside a release's other files; return what would not verify.

    Args:
        core: what the run spent. paid: what the run for ``metrics`` spent, if there was one.
        release: what the certificate says under ``release``.
        format: of the certificate.
    """
    facts = {"format": format, **core, "release": release, "published_metrics": paid}
    card = make_card(facts, list_files(part)[0], metrics)
    (part / CARD).write_text(card, encoding="utf-8")
    files = digests(part, list_files(part)[0])
    finished = certificates.complete(core, release, files, paid, format)
    (part / NAME).write_bytes(certificates.to_bytes(finished))
    return list(problems(part, finished))


def _save_model(path: Path, model: Fitted, core: Mapping[str, Any]) -> None:
    """Save what ``sfumato.methods.load_fitted`` reads, readable by all who may read the folder."""
    facts = {
        "method": core["method"]["name"],
        "spec": model.spec.to_dict(),
        "config": model.config(),
    }
    # safetensors writes the bytes of a strided view as they lie.
    tensors = {name: np.ascontiguousarray(value) for name, value in model.tensors().items()}
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"sfumato": json.dumps(facts, allow_nan=False)})
    path.chmod(mode)  # safetensors makes files that only their owner can read


def _make_durable() -> None:
    # The run is closed after this; a power cut must not take images that are paid for.
    if hasattr(os, "sync"):
        os.sync()


def attach_report(release: Path, page: bytes) -> None:
    """Put ``report.html`` into a release and name it in the certificate, which ends a signature.

    Raises:
        CertificateError: the release has no readable certificate.
    """
    certificate: Certificate = certificates.read_certificate(release)
    with replacing(release) as part:
        shutil.copytree(release, part, copy_function=_link, dirs_exist_ok=True)
        for name in (REPORT, NAME, SIGNATURE):
            (part / name).unlink(missing_ok=True)  # a link: written through, it would change both
        (part / REPORT).write_bytes(page)
        named = {**certificate["files"], REPORT: file_digest(part / REPORT)}
        core = certificates.core_of(certificate)
        metrics = certificate.get("published_metrics")
        made, format = certificate["release"], certificate["format"]
        again = certificates.complete(core, made, named, metrics, format)
        (part / NAME).write_bytes(certificates.to_bytes(again))


def attach_metrics(release: Path, core: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Put ``metrics.json`` into a release, and into certificate and card what it has cost.

    core: what the run spent that paid for them, ``make_core(curator.record())``. A crash leaves the
    release as it was. A report is removed, for it says that none were published; make it anew.

    Raises:
        CertificateError: the result would not verify; the release is as it was.
    """
    certificate = certificates.read_certificate(release)
    made = certificate["release"]
    with replacing(release) as part:
        shutil.copytree(release, part, copy_function=_link, dirs_exist_ok=True)
        for name in (METRICS, CARD, NAME, REPORT, SIGNATURE):
            (part / name).unlink(missing_ok=True)  # a link: written through, it would change both
        text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
        (part / METRICS).write_text(text, encoding="utf-8")
        own, format = certificates.core_of(certificate), certificate["format"]
        if found := finish(part, own, made, core, metrics, format):
            raise CertificateError(
                f"the metrics were not published, because the release would not verify: "
                f"{'; '.join(found[:10])}. Run the same command again once this is mended: it is "
                "not charged again."
            )


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
