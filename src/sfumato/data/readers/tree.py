"""Image files by their paths: what a folder, a zip and a tar of class folders have in common.

A file's label is that of its folder, or what a table says of its name, or what one of its DICOM
tags says; so is its unit, or what a pattern finds in its name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sfumato.data.decoding import dicom
from sfumato.data.decoding.decode import quiet
from sfumato.data.layout import Arrangement, arrange
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource, Place, Record
from sfumato.data.spec import PublicSpec
from sfumato.data.tables import LabelTable, read_table
from sfumato.data.units import Key, as_key, check_rule
from sfumato.errors import DataError, UsageError

FOLDERS_ARE_CLASSES = (
    "The class names are the names of the folders, which are public, also where a folder is empty."
)
PATHS_ARE_CLASSES = (
    "The class names were read from the paths of images, which declares them public: one image "
    "more can add a name. Stating the classes closes the list."
)
TABLE_IS_CLASSES = (
    "The class names were read from the table of labels, which declares them public: one line more "
    "can add a name. Stating the classes closes the list."
)
COLOUR = (
    "Images are read in colour unless channels=1 is stated: whether they are grey is not looked at."
)
PATIENTS = "The unit is what a file's DICOM tag {tag} says; a file without one is its own unit."


@dataclass(frozen=True, repr=False)
class Tree:
    """Image files, arranged: what is public of them, and their labels by place, PRIVATE."""

    files: Sequence[str]
    found: Arrangement
    spec: PublicSpec
    table: LabelTable | None
    label_tag: str | None
    notes: tuple[str, ...]
    passed_over: Counter[str]

    def reordered(self, order: Sequence[int]) -> Tree:
        """The same with its records in another order."""
        found = self.found
        return replace(
            self,
            found=replace(
                found,
                chosen=[found.chosen[at] for at in order],
                labels=[found.labels[at] for at in order],
                names=[found.names[at] for at in order],
            ),
        )


def read_tree(
    files: Sequence[str],
    folders: Iterable[str] | None,
    declared: DataOptions,
    where: str,
    strip_top: bool = False,
    passed_over: Counter[str] | None = None,
) -> Tree:
    """Arrange files by folders (:func:`arrange`), a table or a tag, as ``declared`` says.

    ``passed_over`` counts the files that are no records, by suffix; only ``check`` looks at it.

    Raises DataError or UsageError where what is stated contradicts itself, the folders, the table's
    header, or what is installed.
    """
    if declared.dicom:
        dicom.check_installed()
    table = None if declared.labels is None else read_table(declared, where)
    tag = declared.label_key if table is None and not declared.unlabelled else None
    notes = _check_unit(declared, table, where)
    if tag is not None and not dicom.is_tag(tag):
        raise UsageError(
            f"{where}: label_key={tag!r} is no DICOM tag such as Modality, and there is no table. "
            "State labels=TABLE, or leave label_key out."
        )
    if table is None and tag is None:
        found = arrange(files, folders, declared, where, strip_top)
        if found.classes and declared.classes is None:
            notes += (PATHS_ARE_CLASSES if found.inferred else FOLDERS_ARE_CLASSES,)
    else:
        found = arrange(files, folders, replace(declared, classes=()), where, strip_top)
        if table is not None and declared.classes is None:
            classes = table.class_names()
            notes += (TABLE_IS_CLASSES,)
        else:
            classes = declared.numbered_classes(where)
        labels = _labels_of(table, found.names, classes)
        found = replace(found, classes=classes, labels=labels)
    if declared.channels is None and not declared.dicom:
        notes += (COLOUR,)
    return Tree(
        files, found, declared.spec(found.classes), table, tag, notes, passed_over or Counter()
    )


def _labels_of(
    table: LabelTable | None, names: Sequence[str], classes: Sequence[str]
) -> list[int | None]:
    label_of = {name: label for label, name in enumerate(classes)}
    known = ((None if table is None else table.of(name)) for name in names)
    return [None if line is None or line[0] is None else label_of.get(line[0]) for line in known]


def _check_unit(declared: DataOptions, table: LabelTable | None, where: str) -> tuple[str, ...]:
    """Refuse a unit that neither the table nor a tag has; say where a patient comes from."""
    unit = declared.privacy_unit
    if unit is None or unit.column is None or (table is not None and table.has_units):
        return ()
    if dicom.is_tag(unit.column):
        return (PATIENTS.format(tag=unit.column),)
    if table is not None:
        raise DataError(f"{where}: no column {unit.column!r} for the unit in the table of labels.")
    check_rule(unit, where, "pattern")
    return ()


class TreeSource(ImageSource):
    """Image files at paths; how their bytes are reached is the container's business."""

    def __init__(self, name: str, tree: Tree, location_key: str, places: Iterable[Place]) -> None:
        super().__init__(name, tree.spec, location_key, places)
        self._files = [tree.files[index] for index in tree.found.chosen]
        self._labels = tree.found.labels
        self._names = tree.found.names
        self._table = tree.table
        self._label_tag = tree.label_tag
        self._label_of = {name: label for label, name in enumerate(tree.spec.classes)}
        self._passed_over = tree.passed_over
        self.notes = tree.notes
        self.knows_splits = tree.found.listed

    @abstractmethod
    def _contents(self) -> Iterator[bytes | None]:
        """Yield the bytes of every file in order, None for one that cannot be read."""

    def _records(self) -> Iterator[Record]:
        for data, label in zip(self._contents(), self._labels, strict=True):
            if self._label_tag is not None:
                label = self._label_of.get(_tag(data, self._label_tag) or "")
            yield data, label

    def _unit_keys(self) -> Iterator[Key]:
        unit = self.spec.unit
        assert unit is not None
        if unit.pattern is not None:
            yield from unit.keys_of(self._names)
        elif self._table is not None and self._table.has_units:
            for name in self._names:
                line = self._table.of(name)
                yield None if line is None else as_key(line[1])
        else:
            for data in self._contents():
                yield _tag(data, str(unit.column))

    def _private_length(self) -> int:
        return len(self._files)

    def _private_name(self, index: int) -> str:
        return self._files[index]


def _tag(data: bytes | None, keyword: str) -> str | None:
    with quiet():
        return None if data is None else dicom.tag_value(data, keyword)
