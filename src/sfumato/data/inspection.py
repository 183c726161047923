"""What is wrong with a data set, in numbers: what a custodian must know, and nobody else may."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from sfumato.data.decoding.decode import quiet
from sfumato.data.decoding.dicom import SUFFIXES, is_installed
from sfumato.data.readers.tree import TreeSource
from sfumato.data.source import ImageSource

NEARLY_ALL = 0.9
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
    nearly black, nearly white, without colour. units, largest_unit, without_key: numbers of units,
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
    units: int | None = None
    largest_unit: int | None = None
    without_key: int | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    several: int = 0
    unmatched_files: int = 0
    unmatched_lines: int = 0
    colour: bool = False
    has_dicom: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values, with their sentences. PRIVATE."""
        return {**asdict(self), "warnings": self.warnings()}

    @property
    def usable(self) -> int:
        """Records that take part."""
        return self.records - self.unreadable - self.unlabelled

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
            more = " DICOM files of several frames need --frame." if self.has_dicom else ""
            if self.has_dicom and not is_installed():
                more = " DICOM files need: pip install 'sfumato[dicom]'"
            found.append(f"{self.unreadable} records cannot be read as images.{more}")
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
    """Walk over all records once and count what keeps them from taking part. PRIVATE.

    Raises DataError as ``ImageSource.batches`` does.
    """
    spec, found = source.spec, Inspection(colour=source.spec.channels == 3)
    counts = Counter({label: 0 for label in range(len(spec.classes))})
    with quiet():
        for pixels, label in source._decoded():
            found.records += 1
            if pixels is None:
                found.unreadable += 1
                continue
            if spec.classes and (label is None or not 0 <= label < len(spec.classes)):
                found.unlabelled += 1
                continue
            counts[label or 0] += 1
            found.dark += int(pixels.max() < _DARKEST)
            found.bright += int(pixels.min() > _BRIGHTEST)
            found.grey += bool((pixels == pixels[:1]).all())
        found.by_class = {name: counts[label] for label, name in enumerate(spec.classes)}
        if spec.unit is not None:
            keys = list(source._unit_keys())
            sizes = Counter(key for key in keys if key is not None)
            found.without_key = sum(key is None for key in keys)
            found.units = len(sizes) + found.without_key
            found.largest_unit = max([*sizes.values(), int(found.without_key > 0)], default=0)
    if isinstance(source, TreeSource):
        found.passed_over = dict(source._passed_over)
        ends = {name[name.rfind(".") :].lower() for name in source._files if "." in name}
        found.has_dicom = source.options.dicom or bool(ends & SUFFIXES)
        if source._table is not None:
            found.several, found.unmatched_files, found.unmatched_lines = source._table.gaps(
                source._names
            )
    return found
