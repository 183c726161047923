"""The picture of a release: a few images of each class, one labelled row a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfumato.data.spec import PublicSpec
from sfumato.data.writers import encode_png
from sfumato.methods.base import Batch

PER_CLASS = 10
MOST_ROWS = 40
SMALLEST_CELL = 56
_GAP = 4


class SampleGrid:
    """Keeps the first released images of each class and draws them.

    Unlabelled images fill ten rows.
    """

    def __init__(self, spec: PublicSpec) -> None:
        self._spec = spec
        self._rows: list[list[NDArray[np.uint8]]] = [[] for _ in spec.classes[:MOST_ROWS] or [""]]
        self._most = PER_CLASS if spec.classes else PER_CLASS**2

    def add(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        """Look at released images uint8 ``[b, c, h, w]`` with labels int64 ``[b]``."""
        for label, row in enumerate(self._rows):
            missing = self._most - len(row)
            if missing > 0:
                row += [image.copy() for image in images[labels == label][:missing]]

    def watching(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, and look at each."""
        for images, labels in batches:
            self.add(images, labels)
            yield images, labels

    @property
    def _scale(self) -> int:
        """How often each pixel is repeated."""
        return max(1, -(-SMALLEST_CELL // self._spec.height))

    @property
    def width_of_images(self) -> int:
        """Pixels from the right edge to the names of the classes."""
        return PER_CLASS * (self._spec.width * self._scale + _GAP) + _GAP

    def to_png(self) -> bytes:
        """The grid as a PNG without any text chunk."""
        spec, classes = self._spec, self._spec.classes
        rows = self._rows
        if not classes:
            rows = [rows[0][at : at + PER_CLASS] for at in range(0, self._most, PER_CLASS)]
        high, wide = (side * self._scale + _GAP for side in (spec.height, spec.width))
        font = ImageFont.load_default(size=13)
        names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes[:MOST_ROWS]]
        margin = int(max((font.getlength(name) for name in names), default=-_GAP)) + 2 * _GAP
        size = (margin + self.width_of_images, len(rows) * high + _GAP)
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        for index, row in enumerate(rows):
            top = _GAP + index * high
            if names:
                middle = top + high // 2
                draw.text((margin - _GAP, middle), names[index], "black", font, anchor="rm")
            for column, image in enumerate(row):
                colour = np.broadcast_to(image, (3, spec.height, spec.width)).transpose(1, 2, 0)
                cell = Image.fromarray(np.ascontiguousarray(colour))
                cell = cell.resize((wide - _GAP, high - _GAP), Image.Resampling.NEAREST)
                sheet.paste(cell, (margin + column * wide, top))
        return encode_png(np.asarray(sheet).transpose(2, 0, 1))
