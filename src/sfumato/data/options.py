"""What the user states about a data set before it is opened: one object, one field an option."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sfumato.data.spec import (
    DEFAULT_CHANNELS,
    DEFAULT_SIDE,
    LARGEST_DEFAULT_SIDE,
    LARGEST_SIDE,
    SMALLEST_SIDE,
    PublicSpec,
    is_count,
)
from sfumato.data.units import PrivacyUnit, declared_unit
from sfumato.errors import DataError, UsageError

MOST_CLASSES = 100_000
MOST_WORKERS = 512
PATIENT = "PatientID"


@dataclass(frozen=True)
class DataOptions:
    """How a data set is to be read; everything in here is public.

    None leaves an option to what the container says publicly, else to the default.

    Args:
        image_size: side of the images in pixels, 28 to 256; by default what the format's header
            declares (128 at most), else 32.
        channels: 1 (grey) or 3 (RGB); by default from the header, else 3, or 1 with ``dicom``.
        classes: names in label order, or their number; 0 reads no labels.
        declared_size: the user's public statement of the number of records, or of units.
        split: the split to read, where there are several.
        unit: the column, array, JSON field or DICOM tag whose value says whose a record is;
            PatientID with ``dicom``, unless ``none`` is stated.
        unit_pattern: the regular expression that finds this in a record's name, which is its path
            below its class folder.
        records_per_unit: the most records of a unit that are used; 16 by default.
        image_key: the column or array that holds the images, where its name is not usual.
        label_key: the column, array or DICOM tag that holds the labels.
        labels: a table (.csv, .tsv, .parquet) of labels beside images in a folder, zip or tar.
        name_column: the table's column of file names.
        value_range: the two stored values that become black and white; others between or beyond.
        dicom: the files are DICOM, whatever they are called.
        frame: the frame to read of files with several, from 0; without it these are unusable.
        follow_links: read files and folders that links in a folder point to.
        workers: processes that decode images, without a change of a byte; 1, the default in
            Python, decodes in the program itself.

    Raises:
        UsageError: a value is outside its rule.
    """

    image_size: int | None = None
    channels: int | None = None
    classes: Sequence[str] | int | None = None
    declared_size: int | None = None
    split: str | None = None
    unit: str | None = None
    unit_pattern: str | None = None
    records_per_unit: int | None = None
    image_key: str | None = None
    label_key: str | None = None
    labels: str | os.PathLike[str] | None = None
    name_column: str | None = None
    value_range: tuple[float, float] | None = None
    dicom: bool = False
    frame: int | None = None
    follow_links: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and not (
            is_count(self.image_size) and SMALLEST_SIDE <= self.image_size <= LARGEST_SIDE
        ):
            raise UsageError(
                f"image_size={self.image_size!r} must be an integer from {SMALLEST_SIDE} to "
                f"{LARGEST_SIDE} (images become squares of that side)."
            )
        if self.channels not in (None, 1, 3):
            raise UsageError(f"channels={self.channels!r} must be 1 (grey) or 3 (RGB).")
        if self.declared_size is not None and not is_count(self.declared_size):
            raise UsageError(f"declared_size={self.declared_size!r} must be an integer >= 1.")
        if self.value_range is not None:
            low, high = (float(end) for end in self.value_range)
            object.__setattr__(self, "value_range", (low, high))
            if not (math.isfinite(low) and math.isfinite(high) and low != high):
                raise UsageError(
                    f"value_range={low:g} {high:g} must be two different numbers: the values of "
                    "black and of white, for example 0 4095."
                )
        if self.workers is not None and not (
            is_count(self.workers) and self.workers <= MOST_WORKERS
        ):
            raise UsageError(
                f"workers={self.workers!r} must be an integer from 1 to {MOST_WORKERS}."
            )
        if self.frame is not None and (isinstance(self.frame, bool) or self.frame < 0):
            raise UsageError(f"frame={self.frame!r} must be an integer >= 0; the first is 0.")
        if self.name_column is not None and self.labels is None:
            raise UsageError("name_column has no meaning without a table: state labels too.")
        object.__setattr__(self, "classes", _normal_classes(self.classes))
        assert self.privacy_unit is None or self.privacy_unit.words  # checks the rule

    @cached_property
    def privacy_unit(self) -> PrivacyUnit | None:
        """The stated unit; None where each record is one."""
        column = self.unit
        if self.dicom and column is None and self.unit_pattern is None:
            column = PATIENT
        return declared_unit(
            None if column == "none" else column, self.unit_pattern, self.records_per_unit
        )

    @property
    def reading(self) -> str:
        """What of this changes pixels, labels or units of a record; "" where nothing is stated."""
        names = ("image_key", "label_key", "name_column", "value_range", "dicom", "frame")
        stated = {name: getattr(self, name) for name in (*names, "follow_links")}
        stated |= {"dicom": self.dicom or None, "follow_links": self.follow_links or None}
        stated = {name: value for name, value in stated.items() if value is not None}
        return repr(stated) if stated else ""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The stated names in label order, () to read no labels; None if no names are stated."""
        return self.classes if isinstance(self.classes, tuple) else None

    @property
    def unlabelled(self) -> bool:
        """Whether the user asked for images without labels."""
        return self.classes == ()

    def numbered_classes(self, where: str) -> tuple[str, ...]:
        """Return the class names of a format whose labels are bare values.

        Raises DataError if the user stated none: the labels themselves are private, so the list
        cannot be taken from them.
        """
        if self.classes is None:
            raise DataError(
                f"{where}: the format carries no class names, and labels are private, so the list "
                "is not taken from them. State it: classes=10 for the labels 0 to 9, or a list of "
                "names in label order; classes=0 reads the images without labels."
            )
        if isinstance(self.classes, int):
            return tuple(str(label) for label in range(self.classes))
        return tuple(self.classes)

    def spec(
        self,
        classes: tuple[str, ...],
        side: int = DEFAULT_SIDE,
        channels: int = DEFAULT_CHANNELS,
    ) -> PublicSpec:
        """Return the specification: the user's word first, then the container's public header.

        ``side`` and ``channels`` are what the container declares; a side outside 28 to 128 is moved
        to the nearer end.
        """
        side = self.image_size or min(max(side, SMALLEST_SIDE), LARGEST_DEFAULT_SIDE)
        channels = self.channels or (1 if self.dicom else channels)
        return PublicSpec(side, side, channels, classes, self.declared_size, self.privacy_unit)


def _normal_classes(classes: Sequence[str] | int | None) -> tuple[str, ...] | int | None:
    if isinstance(classes, int):
        if isinstance(classes, bool) or not 0 <= classes <= MOST_CLASSES:
            raise UsageError(f"classes={classes!r} must be a number from 0 to {MOST_CLASSES}.")
        return classes or ()
    if classes is None:
        return None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise UsageError(
            f"classes={classes!r} must be a list of names in label order, or how many there are, "
            "for example classes=['cat', 'dog'] or classes=2."
        )
    return tuple(classes)
