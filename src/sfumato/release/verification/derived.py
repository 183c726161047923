"""What a certificate and the images determine, made again and compared: card, report, picture.

Each text has one right content, so an edited one fails however well its digest fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sfumato.data.writers import class_list
from sfumato.methods.registry import method_names
from sfumato.release import strict_json
from sfumato.release.certificate import is_classifier
from sfumato.release.files import CARD, CLASSES, METRICS, REPORT, SAMPLES
from sfumato.release.images import first_pictures, pixels_of
from sfumato.release.verification.claim import spec_of
from sfumato.release.versions import FIRST_FORMAT
from sfumato.release.writing.card import make_card
from sfumato.release.writing.grid import SampleGrid

FONTS_DIFFER = 96
"""Most grey levels, after a blur of a pixel, between drawings of a name by two versions of a font.

A name that moves by a pixel differs by 85, the digits 0 and 1 by 108.
"""


def problems(folder: Path, names: list[str], certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each file that is not what the certificate and the images make.

    Only for a release whose claim, files, metrics and images were found to be in order.
    """
    published = None
    if METRICS in names:
        published = strict_json.parse((folder / METRICS).read_bytes(), METRICS)
    pictures = first_pictures(folder, certificate)
    if SAMPLES in names:
        yield from _picture_problems(folder / SAMPLES, pictures, certificate)
    lists = certificate["format"] != FIRST_FORMAT and not is_classifier(certificate)
    classes, form = tuple(certificate["classes"]), certificate["release"]["format"]
    listed = class_list(classes, form) if classes and lists else None
    if listed != ((folder / CLASSES).read_bytes() if CLASSES in names else None):
        yield f"{CLASSES} does not list the classes of the certificate, in label order"
    if certificate["method"]["name"] not in method_names():
        return  # card and report cite it; see arrays.remarks()
    if CARD in names and _read(folder / CARD) != make_card(certificate, names, published):
        yield f"{CARD} says something else than the card of this certificate"
    if REPORT in names:
        # Here, because the report is made of releases, and reads them by this package.
        from sfumato.reporting.measurements import PublishedMetrics
        from sfumato.reporting.page import render

        if _read(folder / REPORT) != render(
            certificate, pictures, PublishedMetrics.read(folder, certificate)
        ):
            yield (
                f"{REPORT} says something else than the report of this certificate; make it anew "
                "with sfumato report"
            )


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _picture_problems(
    path: Path, pictures: list[list[bytes]], certificate: Mapping[str, Any]
) -> Iterator[str]:
    grid = SampleGrid(spec_of(certificate))
    for label, row in enumerate(pictures):
        for png in row:
            grid.add(pixels_of(png)[None], np.array([label], np.int64))
    shown, expected = pixels_of(path.read_bytes()), pixels_of(grid.to_png())
    side = grid.width_of_images
    if not np.array_equal(shown[..., -side:], expected[..., -side:]):
        yield f"{SAMPLES} does not show the first images of each class"
    elif not _same_names(shown[..., :-side], expected[..., :-side]):
        yield f"{SAMPLES} names other classes than the certificate"


def _same_names(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two drawings of the classes' names differ by no more than their fonts do."""
    width = max(one.shape[2], other.shape[2])
    blurred = []
    for names in (one, other):
        wide = np.pad(
            names, ((0, 0), (0, 0), (width - names.shape[2], 0)), constant_values=255
        ).transpose(1, 2, 0)
        soft = Image.fromarray(np.ascontiguousarray(wide)).filter(ImageFilter.BoxBlur(1))
        blurred.append(np.asarray(soft, np.int64))
    return width == 0 or int(np.abs(blurred[0] - blurred[1]).max()) <= FONTS_DIFFER
