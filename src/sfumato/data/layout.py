"""How paths inside a folder or an archive become splits, classes and labels.

The names of folders are public, the names of files are not. Three layouts are known:
``class/name.png``, ``split/class/name.png`` and, unlabelled, ``name.png``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from sfumato.data.decoding import dicom
from sfumato.data.options import DataOptions
from sfumato.data.spec import LONGEST_CLASS_NAME
from sfumato.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k"),
    "validation": ("validation", "val", "valid", "dev"),
}


@dataclass(frozen=True, repr=False)
class Arrangement:
    """Which of the given files are records, in order, and their labels.

    ``folder`` is the folder of the chosen split, "" where there are no splits; ``names`` are the
    chosen paths below the folder of their class, or of the set where classes are not read.
    ``inferred`` says that the class names were read from the paths of records, ``listed`` that the
    container lists folders, so that which splits there are is a fact of the container.
    """

    folder: str
    classes: tuple[str, ...]
    chosen: list[int]
    labels: list[int | None]
    names: list[str]
    inferred: bool = False
    listed: bool = True


def is_image_name(name: str) -> bool:
    """Tell whether a file name ends like an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_record_name(name: str) -> bool:
    """Tell whether a file is a record: called like an image or DICOM, or without any suffix.

    Names of DICOM files are often their UIDs, whose last number looks like a suffix.
    """
    suffix = PurePosixPath(name).suffix.lower()
    known = suffix in IMAGE_SUFFIXES or suffix in dicom.SUFFIXES
    return known or suffix == "" or suffix[1:].isdecimal()


def is_hidden(path: str) -> bool:
    """Tell whether a path lies in, or is, something that a system hides."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def inner_path(name: str) -> str | None:
    """Return a path inside an archive with ``/`` and without ``.``; None if it leads out of it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    if parts[:1] == [""] or ".." in parts or re.match(r"[A-Za-z]:$", parts[0] if parts else ""):
        return None
    return "/".join(parts)


def split_name(word: str) -> str | None:
    """Return the standard name of a split (``val`` is ``validation``), or None for other words."""
    return next((name for name, words in _SPLITS.items() if word.lower() in words), None)


def choose_split(found: Iterable[str], wanted: str | None, where: str) -> str | None:
    """Return the split to read among those found: the wanted one, else ``train``, else the only.

    Raises DataError if the wanted one is missing or the choice is open.
    """
    names = sorted(found)
    if wanted is not None:
        choice = split_name(wanted) or wanted
        if choice not in names:
            has = f"has the splits {', '.join(names)}" if names else "has no splits"
            raise DataError(f"{where}: no split {wanted!r}; it {has}. Change or leave out split.")
        return choice
    if len(names) > 1 and "train" not in names:
        raise DataError(f"{where}: holds the splits {', '.join(names)}. Choose one with split=.")
    return "train" if "train" in names else next(iter(names), None)


def match_classes(
    found: Sequence[str], declared: DataOptions, where: str
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Return the class list and the label of each class name that the format gives.

    A name matches a declared class by itself or by the folder name that the writers of releases
    give it. Raises DataError for a name outside the declared list.
    """
    stated = declared.classes if isinstance(declared.classes, int) else declared.class_names
    if stated is None or stated == ():
        names = tuple(found) if stated is None else ()
        return names, {name: label for label, name in enumerate(names)}
    if isinstance(stated, int):
        numbered = tuple(str(label) for label in range(stated))
        if not set(found) <= set(numbered):
            if len(found) != stated:
                raise DataError(
                    f"{where}: has the {len(found)} classes {', '.join(found)[:500]}, but "
                    f"classes={stated} was stated. State the list of names, or leave it out."
                )
            numbered = tuple(found)
        return numbered, {name: label for label, name in enumerate(numbered)}
    labels = label_of_folder(stated)
    for name in found:
        if name not in labels:
            raise DataError(
                f"{where}: the class {name!r} is none of those that the images are read with, "
                f"{', '.join(stated)[:500]}. Name it among the classes, or remove it from the "
                "data; a release is evaluated on images of its own classes."
            )
    return stated, labels


def match_ordered_classes(
    found: Sequence[str], declared: DataOptions, where: str
) -> tuple[str, ...]:
    """Return the class list of a format whose stored labels already count the classes it names.

    Raises DataError if the declared list would give them another order.
    """
    classes, label_of = match_classes(found, declared, where)
    if classes and [label_of[name] for name in found] != list(range(len(found))):
        raise DataError(
            f"{where}: classes were stated in another order than the data set's own: "
            f"{', '.join(found)[:500]}. Use that order, or leave classes out."
        )
    return classes


def label_of_folder(names: Sequence[str]) -> dict[str, int]:
    """The label of each folder that stands for a class: its name, or what writers make of it."""
    labels = {folder: label for label, folder in enumerate(safe_folder_names(names))}
    labels |= {folder: label for label, folder in enumerate(class_folders(names))}
    return labels | {name: label for label, name in enumerate(names)}


def arrange(
    files: Sequence[str],
    folders: Iterable[str] | None,
    declared: DataOptions,
    where: str,
    strip_top: bool = False,
) -> Arrangement:
    """Sort image paths (relative, with ``/``) into splits and classes.

    ``folders`` is what the container itself lists, whether images lie in them or not: the classes
    are taken from it alone, so no record can make one appear or go. None is a container that lists
    no folders; then stated names make each record's label a function of its own path, and without
    them the names are read from the paths, which declares them public.

    A record belongs to the first folder on its path that is called like a stated class, else to the
    top one. An image beside the class folders has no label; one beside the splits is in none.
    Raises DataError where the folders contradict what the user declared.
    """
    if folders is not None:
        return _by_folders(files, folders, declared, where, strip_top)
    if isinstance(declared.classes, int):
        raise DataError(
            f"{where}: lists no folders of its own, so a number of classes cannot be matched. "
            "State their names instead: classes=['cat', 'dog']."
        )
    if declared.class_names is not None:
        found = _by_paths(files, declared.class_names, declared.split)
        return replace(found, listed=False)
    parents = {parent for file in files for parent in _parents(file) if _is_class_name(parent)}
    found = _by_folders(files, parents, declared, where, strip_top, inferred=True)
    return replace(found, listed=False)


def _by_folders(
    files: Sequence[str],
    folders: Iterable[str],
    declared: DataOptions,
    where: str,
    strip_top: bool,
    inferred: bool = False,
) -> Arrangement:
    folders = set(folders)
    tops = _tops(folders, "")
    prefix = folder = ""
    stated = label_of_folder(declared.class_names or ())
    if strip_top and len(tops) == 1:
        (top,) = tops
        if split_name(top) is None and top not in stated:
            prefix, tops = f"{top}/", _tops(folders, f"{top}/")
    splits = {split_name(top) or top: top for top in sorted(tops, reverse=True)}
    known = {name: top for name, top in splits.items() if split_name(top)}
    only_splits = len(known) == len(tops) > 0 and not tops & set(stated)
    split = None
    if declared.split is not None or only_splits:
        among = known if declared.split is None else splits
        if inferred:  # paths of records decide, so nothing is refused
            wanted = declared.split or ("train" if "train" in among else min(among))
            split = split_name(wanted) or wanted
        else:
            split = choose_split(among, declared.split, where)
    if split is not None:
        folder = splits.get(split, split)
        prefix = f"{prefix}{folder}/"
        tops = _tops(folders, prefix)
    if declared.class_names:
        classes, label_of = declared.class_names, stated
    else:
        classes, matched = match_classes(sorted(tops), declared, where)
        label_of = dict(matched)
    chosen = [index for index, file in enumerate(files) if file.startswith(prefix)]
    chosen.sort(key=lambda index: files[index])
    anywhere = bool(declared.class_names)
    placed = [_place(files[index][len(prefix) :], label_of, anywhere) for index in chosen]
    labels = [label for label, _ in placed]
    if inferred and declared.split is None:
        folder = ""
    names = [name for _, name in placed]
    return Arrangement(folder, classes, chosen, labels, names, inferred and bool(classes))


def _by_paths(files: Sequence[str], classes: tuple[str, ...], split: str | None) -> Arrangement:
    """Each record by its own path alone: training data, or the split that is asked for."""
    label_of = label_of_folder(classes)
    wanted = None if split is None else split_name(split) or split
    chosen, labels, names = [], [], []
    for index in sorted(range(len(files)), key=lambda index: files[index]):
        label, name = _place(files[index], label_of, anywhere=True)
        above = files[index][: len(files[index]) - len(name)] if classes else files[index]
        parents = [part for part in above.split("/")[:-1] if part not in label_of]
        # Without classes a split is one of the two upper folders, not any folder below them.
        found = {split_name(part) or part for part in (parents if classes else parents[:2])}
        is_known = {part for part in found if split_name(part)}
        if (wanted in found) if wanted else (not is_known or "train" in is_known):
            chosen.append(index)
            labels.append(label)
            names.append(name)
    folder = "" if wanted in (None, "train") else str(wanted)
    return Arrangement(folder, classes, chosen, labels, names)


def _place(path: str, label_of: Mapping[str, int], anywhere: bool) -> tuple[int | None, str]:
    """A record's label and its name below its class folder, from its path alone."""
    parts = path.split("/")
    for depth, part in enumerate(parts[:-1]):
        if part in label_of:
            return label_of[part], "/".join(parts[depth + 1 :])
        if not anywhere:
            break
    return None, path


def safe_folder_names(classes: Sequence[str]) -> list[str]:
    """Return a distinct folder name for each class that every file system accepts.

    Letters, digits, dot, dash, underscore and inner spaces stay; anything else becomes ``_``.
    """
    names: list[str] = []
    taken: set[str] = set()
    for name in classes:
        safe = re.sub(r"[^\w .-]", "_", name)[:60].strip(" .") or "_"
        if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|__macosx", safe):
            safe = f"{safe}_"
        unique, count = safe, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{safe}_{count}"
        taken.add(unique.casefold())
        names.append(unique)
    return names


def class_folders(classes: Sequence[str]) -> list[str]:
    """Return the folder of each class in a release: distinct, and sorted in label order.

    Loaders such as torchvision's ``ImageFolder`` number the classes in the order of their folders'
    names, so where the names alone are not in label order each begins with its label. No folder is
    called like another class.
    """
    names = safe_folder_names(classes)
    if names == sorted(names):
        return names
    digits, folders = len(str(len(names) - 1)), list(classes)
    while set(folders) & set(classes):
        folders = [f"{label:0{digits}d}_{name}" for label, name in enumerate(names)]
        digits += 1
    return folders


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _is_class_name(folder: str) -> bool:
    name = folder.rpartition("/")[2]
    return 0 < len(name) <= LONGEST_CLASS_NAME and name.isprintable()


def _tops(folders: Iterable[str], prefix: str) -> set[str]:
    below = (folder[len(prefix) :] for folder in folders if folder.startswith(prefix))
    return {folder.partition("/")[0] for folder in below} - {""}
