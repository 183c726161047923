"""A table of labels beside images: which line names a file, what its label is, and whose it is.

Each line is one record's, and read by itself: whatever a line holds, the others mean the same. So a
field may be quoted but may not hold a line break. What the table's header says is public, its lines
are private.
"""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from sfumato.data.decoding.dicom import SUFFIXES
from sfumato.data.layout import IMAGE_SUFFIXES
from sfumato.data.options import DataOptions
from sfumato.data.spec import LONGEST_CLASS_NAME
from sfumato.errors import DataError

_NAMES = ("file", "filename", "file_name", "name", "image", "path", "id")
_LABELS = ("label", "class", "target", "diagnosis")
_DELIMITERS = (",", ";", "\t", "|")
_SEVERAL = "|"

Line = tuple[str | None, str | None, str | None]
"""The name, label and unit of a line."""


@dataclass(frozen=True, repr=False)
class LabelTable:
    """What a table says of files. PRIVATE but for ``has_units``.

    ``lines`` and ``stems`` hold (label, unit) by name, and by name without suffix; None for a label
    or a unit on which two lines of one name disagree.
    """

    lines: dict[str, tuple[str | None, str | None]]
    stems: dict[str, tuple[str | None, str | None]]
    has_units: bool

    def of(self, path: str) -> tuple[str | None, str | None] | None:
        """The label and the unit of a file, from its path, name, or either without suffix."""
        for name in (path, path.rpartition("/")[2]):
            for key, known in ((name, self.lines), (_stem(name), self.lines), (name, self.stems)):
                if key in known:
                    return known[key]
        stem = _stem(path.rpartition("/")[2])
        return self.stems.get(stem)

    def gaps(self, paths: Sequence[str]) -> tuple[int, int, list[str]]:
        """How many lines have several labels, how many files no line names; lines of no file."""
        known = {name for path in paths for name in (path, path.rpartition("/")[2])}
        without = sum(self.of(path) is None for path in set(paths))
        known |= {_stem(name) for name in known}
        lines = [name for name in self.lines if not known & {name, _stem(name)}]
        several = sum(_SEVERAL in (label or "") for label, _ in self.lines.values())
        return several, without, lines

    def class_names(self) -> tuple[str, ...]:
        """All labels that can be names of classes, sorted. Taking them declares them public."""
        found = {label for label, _ in self.lines.values() if label and is_one_class(label)}
        return tuple(sorted(found))


def is_one_class(label: str) -> bool:
    """Whether a label is one class's name, and not several joined by ``|``."""
    return len(label) <= LONGEST_CLASS_NAME and label.isprintable() and _SEVERAL not in label


def read_table(declared: DataOptions, where: str) -> LabelTable:
    """Read the table that ``declared.labels`` names.

    ``.parquet``, else text with commas, semicolons or tabs, UTF-8 (a byte-order mark is allowed) or
    UTF-16. Raises DataError if it cannot be read or lacks a column.
    """
    path = Path(os.fspath(declared.labels or ""))
    try:
        if path.suffix.lower() == ".parquet":
            header, lines = _of_parquet(path, declared)
        else:
            header, lines = _of_text(path, declared)
    except pa.ArrowException:
        raise DataError(f"{path}: the table of labels is damaged. Write it again.") from None
    except OSError as error:
        raise DataError(
            f"{path}: the table of labels cannot be read ({error.strerror}). Correct labels=."
        ) from None
    wanted = _columns(header, declared, path)
    found: dict[str, tuple[str | None, str | None]] = {}
    stems: dict[str, tuple[str | None, str | None]] = {}
    for fields in lines:
        name, label, unit = (None if at is None else _cell(fields, at) for at in wanted)
        if name is None:
            continue
        name = name.replace("\\", "/").removeprefix("./")
        _add(found, name, label, unit)
        _add(stems, _stem(name), label, unit)
    return LabelTable(found, stems, wanted[2] is not None)


def _add(
    found: dict[str, tuple[str | None, str | None]], name: str, label: str | None, unit: str | None
) -> None:
    if name in found:
        old_label, old_unit = found[name]
        label = label if label == old_label else None
        unit = unit if unit == old_unit else None
    found[name] = label, unit


def _columns(
    header: Sequence[str], declared: DataOptions, path: Path
) -> tuple[int, int | None, int | None]:
    """The places of the columns of names, labels and units."""
    low = [column.strip().lower() for column in header]

    def place(stated: str | None, usual: Iterable[str], option: str) -> int | None:
        if stated is not None and stated in header:
            return header.index(stated)
        if stated is None and (known := next((name for name in usual if name in low), None)):
            return low.index(known)
        if stated is None and option != "name_column":
            return None
        what = "column of file names" if stated is None else f"column {stated!r}"
        raise DataError(f"{path}: no {what} among {', '.join(header)[:300]}. State {option}=.")

    name = place(declared.name_column, _NAMES, "name_column")
    assert name is not None
    label = None if declared.unlabelled else place(declared.label_key, _LABELS, "label_key")
    if label is None and not declared.unlabelled:
        raise DataError(
            f"{path}: no column of labels among {', '.join(header)[:300]}. State label_key=, or "
            "classes=0 to read no labels."
        )
    unit = declared.privacy_unit
    stated = unit.column if unit is not None else None
    return name, label, header.index(stated) if stated in header and stated else None


def _cell(fields: Sequence[str | None], at: int) -> str | None:
    value = fields[at] if at < len(fields) else None
    text = None if value is None else value.strip()
    return text or None


def _of_text(path: Path, declared: DataOptions) -> tuple[list[str], Iterator[list[str | None]]]:
    data = path.read_bytes()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    first, *rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    headers = {mark: _fields(first, mark) for mark in _DELIMITERS}
    wanted = declared.name_column
    fitting = [mark for mark in _DELIMITERS if wanted in headers[mark]] if wanted else []
    if path.suffix.lower() == ".tsv":
        fitting.append("\t")
    mark = fitting[0] if fitting else max(_DELIMITERS, key=lambda mark: len(headers[mark]))
    header = [column or "" for column in headers[mark]]
    return header, (_fields(line, mark) for line in rest if line)


def _fields(line: str, mark: str) -> list[str | None]:
    """One line's fields; none if it is not CSV."""
    try:
        return list(next(csv.reader([line], delimiter=mark), []))
    except csv.Error:
        return []


def _of_parquet(path: Path, declared: DataOptions) -> tuple[list[str], Iterator[list[str | None]]]:
    table = pq.read_table(path)
    columns = [[_shown(value) for value in column] for column in table.columns]
    return list(table.column_names), (list(row) for row in zip(*columns, strict=True))


def _shown(value: pa.Scalar) -> str | None:
    try:
        found = value.as_py()
    except ValueError:  # a text that is not UTF-8
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return None if found is None else str(found)


def _stem(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    known = suffix.lower() in IMAGE_SUFFIXES or suffix.lower() in SUFFIXES
    return name[: -len(suffix)] if known else name
