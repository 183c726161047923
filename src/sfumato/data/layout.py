"""How paths inside a folder or an archive become splits, classes and labels.

The names of folders are public, the names of files are not. Three layouts are known:
``class/name.png``, ``split/class/name.png`` and, unlabelled, ``name.png``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sfumato.data.options import DataOptions
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
    chosen paths below the folder of their class, or of the set where classes are not read, and
    empty unless a declared unit needs them.
    """

    folder: str
    classes: tuple[str, ...]
    chosen: list[int]
    labels: list[int | None]
    names: list[str]


def is_image_name(name: str) -> bool:
    """Tell whether a file name ends like an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_hidden(path: str) -> bool:
    """Tell whether a path lies in, or is, something that a system hides."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


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
    labels = {folder: label for label, folder in enumerate(safe_folder_names(stated))}
    labels |= {name: label for label, name in enumerate(stated)}
    for name in found:
        if name not in labels:
            raise DataError(
                f"{where}: the class {name!r} is in no declared list. "
                "Add it to classes, or remove it from the data."
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


def arrange(
    files: Sequence[str],
    folders: Iterable[str],
    declared: DataOptions,
    where: str,
    strip_top: bool = False,
) -> Arrangement:
    """Sort image paths (relative, with ``/``) into splits and classes.

    A folder without images is a class too: were it not, one record could make a class appear.
    An image beside the class folders has no label; one beside the splits is in none of them.
    Raises DataError where the folders contradict what the user declared.
    """
    tops = _tops(files, folders, "")
    prefix = folder = ""
    stated = declared.classes if isinstance(declared.classes, tuple) else ()
    if strip_top and len(tops) == 1:
        (top,) = tops
        inner = _tops(files, folders, f"{top}/")
        is_set = inner or all("/" in file for file in files)
        if is_set and split_name(top) is None and top not in stated:
            prefix, tops = f"{top}/", inner
    splits = {split_name(top) or top: top for top in sorted(tops, reverse=True)}
    known = {name: top for name, top in splits.items() if split_name(top)}
    only_splits = len(known) == len(tops) > 0 and not set(tops) & set(stated)
    split = None
    if declared.split is not None:
        split = choose_split(splits, declared.split, where)
    elif only_splits:
        split = choose_split(known, None, where)
    if split is not None:
        folder = splits[split]
        prefix = f"{prefix}{folder}/"
        tops = _tops(files, folders, prefix)
    classes, label_of = match_classes(sorted(tops), declared, where)
    if classes and not tops:
        raise DataError(
            f"{where}: classes were stated, but the images lie in no class folders. "
            "Move each image into a folder named after its class, or leave classes out."
        )
    chosen = [index for index, file in enumerate(files) if file.startswith(prefix)]
    chosen.sort(key=lambda index: files[index])
    labels = [label_of.get(_top(files[index], prefix) or "") for index in chosen]
    named = declared.privacy_unit is not None
    names = [files[index][len(prefix) :] for index in chosen if named]
    if classes:
        names = [name.partition("/")[2] or name for name in names]
    return Arrangement(folder, classes, chosen, labels, names)


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


def _top(path: str, prefix: str) -> str | None:
    head, slash, _ = path[len(prefix) :].partition("/")
    return head if slash and path.startswith(prefix) else None


def _tops(files: Iterable[str], folders: Iterable[str], prefix: str) -> set[str]:
    paths = [*files, *(f"{folder}/" for folder in folders)]
    return {top for path in paths if (top := _top(path, prefix))}
