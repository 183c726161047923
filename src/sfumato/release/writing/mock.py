"""Write a mock: a folder like a release, of random images, from declared facts alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import sfumato
from sfumato.data.spec import PublicSpec
from sfumato.data.writers import write_images
from sfumato.errors import UsageError
from sfumato.methods.base import Batch, labels_in_proportion
from sfumato.release.certificate import NAME
from sfumato.release.files import CARD, MOCK, MOCK_FORMAT, SAMPLES, list_files
from sfumato.release.writing.card import make_mock_card
from sfumato.release.writing.grid import SampleGrid
from sfumato.release.writing.write import check_target, replacing

_BATCH = 256


def write_mock(
    out: Path,
    spec: PublicSpec,
    samples: int,
    format: str = "folder",
    *,
    seed_public: int = 0,
    force: bool = False,
) -> Path:
    """Write the images, lists, picture and card that a release would have, and return ``out``.

    There is no certificate and no model. ``mock.json`` states what was declared.

    Args:
        out: a new or empty folder, or a mock to replace with ``force``.
        spec: size, channels and classes of the images.
        format: ``folder``, ``parquet`` or ``webdataset``.

    Raises:
        UsageError: ``out`` holds something else.
    """
    if (out / NAME).exists():
        raise UsageError(
            f"out={out} holds a release, which a mock never replaces. Name a new or empty folder."
        )
    check_target(out, force)
    made = {"sfumato": sfumato.__version__, "made_by": "mock", "seed_public": seed_public}
    with replacing(out) as part:
        grid = SampleGrid(spec)
        images = grid.watching(_random_images(spec, samples, seed_public))
        write_images(images, spec.classes, part, format)
        (part / SAMPLES).write_bytes(grid.to_png())
        facts = {
            "format": MOCK_FORMAT,
            "warning": "A mock: no data were read, and nothing here carries a guarantee.",
            "classes": list(spec.classes),
            "spec": spec.to_dict(),
            "release": {**made, "format": format, "samples": samples},
        }
        card = make_mock_card(facts, list_files(part)[0])
        (part / CARD).write_text(card, encoding="utf-8")
        stated = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
        (part / MOCK).write_text(f"{stated}\n", encoding="utf-8")
    return out


def _random_images(spec: PublicSpec, samples: int, seed: int) -> Iterator[Batch]:
    """Uniformly random pixels, as many of each class, with an image of each where samples allow."""
    rng = np.random.default_rng(seed)
    labels = labels_in_proportion(np.ones(max(1, len(spec.classes))), samples, rng)
    for start in range(0, samples, _BATCH):
        batch = labels[start : start + _BATCH]
        shape = (len(batch), spec.channels, spec.height, spec.width)
        yield rng.integers(0, 256, shape, dtype=np.uint8), batch
