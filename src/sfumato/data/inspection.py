"""What is wrong with a data set, in numbers: what a custodian must know, and nobody else may."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sfumato.data.decoding.decode import quiet
from sfumato.data.decoding.diagnosis import reason
from sfumato.data.decoding.dicom import SUFFIXES
from sfumato.data.readers.tree import TreeSource
from sfumato.data.source import ImageSource

NEARLY_ALL = 0.9
MOST_NAMED = 1000
"""Unusable records that are named for each reason."""
_DARKEST, _BRIGHTEST = 24, 231
"""An image whose brightest pixel is below the one, or darkest above the other, shows nothing."""
_REASONS = {
    "link": "links are not followed unless --follow-links is given",
    ".jfif": "JPEG under another name; rename to .jpg",
    ".jpe": "JPEG under another name; rename to .jpg",
    ".jp2": "JPEG 2000 is not read; convert to PNG or TIFF",
    ".j2k": "JPEG 2000 is not read; convert to PNG or TIFF",
    ".avif": "AVIF is not read; convert to PNG",
    ".heic": "HEIC is not read; convert to PNG",
    ".heif": "HEIF is not read; convert to PNG",
    ".gif": "GIF is not read; convert to PNG",
    ".pgm": "PGM is not read; convert to PNG",
    ".ppm": "PPM is not read; convert to PNG",
    ".pbm": "PBM is not read; convert to PNG",
    ".svg": "SVG is no grid of pixels; convert to PNG",
    ".nii": "a volume; save its slices as PNG or DICOM",
    ".mha": "a volume; save its slices as PNG or DICOM",
    ".nrrd": "a volume; save its slices as PNG or DICOM",
    ".svs": "a whole slide; save tiles as PNG",
    ".npy": "could run code when it is loaded; save with np.savez",
    ".pkl": "could run code when it is loaded; save as class folders or with np.savez",
    ".zip": "archives inside are not read; give the archive itself",
    ".tar": "archives inside are not read; give the archive itself",
    ".gz": "archives inside are not read; unpack it, or give it itself",
}


@dataclass(repr=False)
class Inspection:
    """What :func:`inspect` counted. PRIVATE: for the custodian's eyes only.

    unreadable, unlabelled: records without usable pixels, and readable ones without a label among
    the classes. by_class: usable records of each class. dark, bright, grey: usable records that are
    nearly black, nearly white, without colour. unusable_records: names of those that do not take
    part, by the reason. units, largest_unit, without_key: numbers of units,
    of the largest one's records, and of records without a key. passed_over: files that are no
    records, by suffix. several, unmatched_files, unmatched_lines: what a table of labels does not
    say. colour: whether images are read in colour.
    """

    records: int = 0
    unreadable: int = 0
    unlabelled: int = 0
    by_class: dict[str, int] = field(default_factory=dict)
    dark: int = 0
    bright: int = 0
    grey: int = 0
    unusable_records: dict[str, list[str]] = field(default_factory=dict)
    units: int | None = None
    largest_unit: int | None = None
    without_key: int | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    several: int = 0
    unmatched_files: int = 0
    unmatched_lines: int = 0
    lines_without_file: list[str] = field(default_factory=list)
    colour: bool = False
    dicom_alone: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values, with their sentences. PRIVATE."""
        return {**asdict(self), "warnings": self.warnings()}

    @property
    def usable(self) -> int:
        """Records that take part."""
        return self.records - self.unreadable - self.unlabelled

    @property
    def others(self) -> str:
        """Files that are no records, of kinds that need no warning: ``2 *.txt``. PRIVATE."""
        known = sorted(kind for kind in self.passed_over if kind not in _REASONS)
        return ", ".join(
            f"{self.passed_over[kind]} {f'*{kind}' if kind else 'without suffix'}" for kind in known
        )

    def warnings(self) -> list[str]:
        """What should be mended, a sentence each. PRIVATE."""
        return [*self._of_labels(), *self._of_pixels(), *self._of_units(), *self._of_files()]

    def _of_labels(self) -> list[str]:
        found = []
        if self.unlabelled:
            found.append(
                f"{self.unlabelled} readable records have no label among the classes. Correct "
                "--classes, or put them right."
            )
        empty = [name for name, count in self.by_class.items() if not count]
        if empty:
            found.append(f"no usable record is of the class {', '.join(empty)[:300]}.")
        if self.several:
            found.append(
                f"{self.several} lines of the table have several labels joined by |. Write a "
                "column with one label a file, for example of one finding: yes or no."
            )
        if self.unmatched_files or self.unmatched_lines:
            found.append(
                f"{self.unmatched_files} files are named by no line of the table, and "
                f"{self.unmatched_lines} lines name no file."
            )
        return found

    def _of_pixels(self) -> list[str]:
        found = []
        if not self.usable:
            found.append("no record is usable: a run would answer from nothing, and be charged.")
        if self.unreadable:
            found.append(f"{self.unreadable} records cannot be read as images.")
        for count, tone in ((self.dark, "black"), (self.bright, "white")):
            if self.usable and count >= NEARLY_ALL * self.usable:
                found.append(
                    f"{count} of {self.usable} usable images are nearly {tone} all over: their "
                    "values fill a small part of what their format can hold. Say which part: "
                    "--value-range 0 4095 for 12 bits."
                )
        if self.colour and self.usable and self.grey == self.usable:
            found.append(
                "all images are grey, but are read in colour, with three times the coordinates "
                "and coloured noise. State --channels 1."
            )
        return found

    def _of_units(self) -> list[str]:
        if self.dicom_alone:
            return [
                "there are DICOM files, and each is a unit of its own: a patient with several is "
                "protected less. State --dicom, which makes the patient the unit."
            ]
        if self.units is None or not self.records:
            return []
        if self.without_key == self.records:
            return ["no record has a key, so each is a unit of its own. Correct the unit's rule."]
        if self.without_key:
            return [f"{self.without_key} records have no key and are units of their own."]
        return []

    def _of_files(self) -> list[str]:
        return [
            f"{count} files {f'called *{kind}' if kind != 'link' else 'are links and'} "
            f"are passed over: {_REASONS[kind]}."
            for kind, count in sorted(self.passed_over.items())
            if kind in _REASONS
        ]


def inspect(source: ImageSource) -> Inspection:
    """Walk over all records and count what keeps them from taking part. PRIVATE.

    A second walk names those that do not, with the reason. Raises DataError as
    ``ImageSource.batches`` does.
    """
    spec, found = source.spec, Inspection(colour=source.spec.channels == 3)
    counts = Counter({label: 0 for label in range(len(spec.classes))})
    unreadable, unlabelled = set[int](), set[int]()
    with quiet():
        for index, (pixels, label) in enumerate(source._decoded()):
            found.records += 1
            if pixels is None:
                unreadable.add(index)
                continue
            if spec.classes and (label is None or not 0 <= label < len(spec.classes)):
                unlabelled.add(index)
                continue
            counts[label or 0] += 1
            found.dark += int(pixels.max() < _DARKEST)
            found.bright += int(pixels.min() > _BRIGHTEST)
            found.grey += bool((pixels == pixels[:1]).all())
        found.unreadable, found.unlabelled = len(unreadable), len(unlabelled)
        found.by_class = {name: counts[label] for label, name in enumerate(spec.classes)}
        if spec.unit is not None:
            keys = list(source._unit_keys())
            sizes = Counter(key for key in keys if key is not None)
            found.without_key = sum(key is None for key in keys)
            found.units = len(sizes) + found.without_key
            found.largest_unit = max([*sizes.values(), int(found.without_key > 0)], default=0)
        found.unusable_records = _named(source, unreadable, unlabelled)
    if isinstance(source, TreeSource):
        found.passed_over = dict(source._passed_over)
        if spec.unit is None and not source.options.dicom:
            ends = {PurePosixPath(name).suffix.lower() for name in source._names}
            found.dicom_alone = bool(ends & SUFFIXES)
        if source._table is not None:
            several, files, lines = source._table.gaps(source._names)
            found.several, found.unmatched_files, found.unmatched_lines = several, files, len(lines)
            found.lines_without_file = [_shown(name) for name in lines[:MOST_NAMED]]
    return found


def _named(source: ImageSource, unreadable: set[int], unlabelled: set[int]) -> dict[str, list[str]]:
    """The unusable records by reason, in order."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    wanted = len(unreadable) + len(unlabelled)
    records = enumerate(source._records()) if wanted else ()
    for index, (content, _) in records:
        if index in unreadable:
            why = reason(content, source.options)
        elif index in unlabelled:
            why = "no label among the classes"
        else:
            continue
        if len(named[why]) < MOST_NAMED:
            named[why].append(_shown(source._private_name(index)))
    return dict(named)


def _shown(name: str) -> str:
    """A name that a terminal can show: what it cannot print is escaped."""
    return repr(name)[1:-1]
