"""Make a release's report, inside the release or, with private measurements, outside of it."""

from __future__ import annotations

import os
from pathlib import Path

from sfumato.data import stated_path
from sfumato.disk import write_private
from sfumato.errors import CertificateError, UsageError
from sfumato.release import attach_report, read_certificate
from sfumato.release.certificate import NAME
from sfumato.release.files import REPORT
from sfumato.release.images import first_pictures
from sfumato.release.verification.verify import problems
from sfumato.reporting.measurements import PublishedMetrics, read_measurements
from sfumato.reporting.page import render

Location = str | os.PathLike[str]


def write_report(
    release: Location, *, metrics: Location | None = None, out: Location | None = None
) -> Path:
    """Write a release's page and return its path.

    Args:
        release: a release; a page without ``out`` becomes part of it, ``report.html``.
        metrics: JSON of an evaluation to show too. Unless its data was declared public, the page
            is watermarked; either way it needs ``out``, and never becomes part of a release.
        out: an ``.html`` file outside every release; replaced if it is there.

    Raises:
        UsageError: ``out`` is missing beside ``metrics``, lies in a release, or is no page.
        CertificateError: the release fails verification; a stamped one only gets a stamped page.
        DataError: ``metrics`` is no evaluation of this release.
    """
    folder = stated_path(release, "release")
    target = None if out is None else _outside(stated_path(out, "out"))
    if metrics is not None and target is None:
        raise UsageError(
            f"metrics={os.fspath(metrics)} may be private, so it is never shown inside a release. "
            "Name a page elsewhere with --out (out=)."
        )
    certificate = read_certificate(folder)
    # A page that is there already is replaced, so what is wrong with it does not matter.
    if found := [problem for problem in problems(folder, certificate) if REPORT not in problem]:
        shown = "; ".join(found[:10])
        raise CertificateError(f"{folder}: no report on a release that fails verification: {shown}")
    measured = None if metrics is None else read_measurements(Path(metrics), certificate)
    published = PublishedMetrics.read(folder, certificate)
    page = render(certificate, first_pictures(folder, certificate), published, measured).encode()
    if target is None:
        attach_report(folder, page)
        return folder / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    write_private(target, page)
    return target


def _outside(out: Path) -> Path:
    if out.suffix != ".html" or out.is_dir():
        raise UsageError(f"out={out} must be the name of an .html file.")
    for folder in out.resolve().parents:
        if (folder / NAME).exists():
            raise UsageError(
                f"out={out} lies in a release, {folder}, which only its own report belongs to. "
                "Name another place, or leave out --out and --metrics."
            )
    return out
