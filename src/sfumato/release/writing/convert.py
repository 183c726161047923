"""Write the images of a release in another format; everything else stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import sfumato
from sfumato.data.writers import write_images
from sfumato.errors import CertificateError, UsageError
from sfumato.methods.base import Batch
from sfumato.release import certificate as certificates
from sfumato.release import strict_json
from sfumato.release.certificate import Certificate
from sfumato.release.files import EMBEDDING, METRICS, MODEL, SAMPLES
from sfumato.release.images import numbered_images, pixels_of
from sfumato.release.verification.claim import spec_of
from sfumato.release.verification.verify import check
from sfumato.release.versions import writer_of
from sfumato.release.writing.write import check_target, finish, replacing


def convert_release(release: Path, out: Path, format: str, force: bool = False) -> Path:
    """Write a release with the same images, model and certificate of what was spent into ``out``.

    A report and a signature are left out, because they are of the release as it was.

    Args:
        format: ``folder``, ``parquet`` or ``webdataset``.

    Raises:
        CertificateError: the release does not verify, or what was written does not.
        UsageError: it holds no images, another version wrote it, or ``out`` holds something else.
    """
    check_target(out, force)
    certificate = certificates.read_certificate(release)
    check(release, certificate)
    if certificates.is_classifier(certificate):
        raise UsageError(f"{release} is a private classifier, which holds no images to convert.")
    if writer_of(certificate) != sfumato.__version__:
        raise UsageError(
            f"{release} was written by sfumato {writer_of(certificate)}, and a converted release "
            "is one of this version. Sample its images anew: sfumato sample."
        )
    metrics = None
    with replacing(out) as part:
        write_images(_batches(release, certificate), spec_of(certificate).classes, part, format)
        for name in (SAMPLES, MODEL, EMBEDDING, METRICS):
            if (release / name).exists():
                shutil.copy2(release / name, part / name)
        if (part / METRICS).exists():
            metrics = strict_json.parse((part / METRICS).read_bytes(), METRICS)
        core, paid = certificates.core_of(certificate), certificate.get("published_metrics")
        made = {**certificate["release"], "format": format}
        if found := finish(part, core, made, paid, metrics):
            raise CertificateError(f"{out} would not verify: {'; '.join(found[:10])}.")
    return out


def _batches(release: Path, certificate: Certificate) -> Iterator[Batch]:
    for label, png in numbered_images(release, certificate):
        yield pixels_of(png)[None], np.array([label], np.int64)
