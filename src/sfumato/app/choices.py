"""What a person may ask of a run on the page, and how the command line is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfumato.app.places import Places
from sfumato.errors import UsageError

LONGEST = 500
_PAIR = re.compile(r"-?[0-9.]+ +-?[0-9.]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.=-]{0,99}")

Kind = Literal["number", "pair", "text", "choice", "flag", "place"]


@dataclass(frozen=True)
class Choice:
    """One field of the form: an option of ``synthesize``, without its dashes.

    A ``place`` must lie in the allowed folders, a ``pair`` is two numbers, a ``flag`` is given or
    not. ``options`` are the values of a ``choice``, the first being what the command line takes
    when nothing is said.
    """

    name: str
    label: str
    kind: Kind = "text"
    value: str = ""
    options: tuple[str, ...] = ()


MAIN = (
    Choice("epsilon", "Privacy budget ε", "number", "1"),
    Choice("method", "Method", "choice"),
    Choice("declared-size", "Number of records, if it is public", "number"),
    Choice("cap", "Cap: the most ε these data may ever be charged", "number"),
)
MORE = (
    Choice("delta", "Privacy budget δ", "number", "1e-5"),
    Choice(
        "relation",
        "Neighbouring relation",
        "choice",
        options=("add-or-remove-one", "replace-one"),
    ),
    Choice("unit", "Column or DICOM tag that says whose a record is"),
    Choice("unit-pattern", "Pattern that finds a person in a file name"),
    Choice("records-per-unit", "Most records of one person", "number"),
    Choice("image-size", "Side of the images in pixels", "number"),
    Choice("channels", "Channels", "choice", options=("", "1", "3")),
    Choice("classes", "Classes: how many, or their names"),
    Choice("labels", "Table with the labels", "place"),
    Choice("name-column", "Its column of file names"),
    Choice("label-key", "Column, array or DICOM tag of the labels"),
    Choice("image-key", "Column or array of the images"),
    Choice("value-range", "Stored values that are black and white, such as 0 4095", "pair"),
    Choice("dicom", "The files are DICOM, whatever their names", "flag"),
    Choice("frame", "Frame to read of files with several", "number"),
    Choice("split", "Split"),
    Choice("same-data-as", "The same images as those that were at"),
    Choice("independent-data", "No other data set here has these images", "flag"),
    Choice("allow-large-delta", "Accept a large δ", "flag"),
    Choice("preset", "Named settings of the method"),
    Choice("public", "Public images that the method may learn from", "place"),
    Choice("public-model", "Public model that training starts from", "place"),
    Choice("samples", "Number of synthetic images", "number"),
    Choice(
        "format", "Format of the release", "choice", options=("folder", "parquet", "webdataset")
    ),
    Choice("seed-public", "Public seed of the training", "number"),
)


def offered(known: Mapping[str, str], methods: list[str]) -> tuple[list[Choice], list[Choice]]:
    """The fields that this version's command line has, the main ones and the others."""
    main = [
        Choice(one.name, one.label, one.kind, options=tuple(methods))
        if one.name == "method"
        else one
        for one in MAIN
    ]
    return main, [one for one in MORE if one.name in known]


def options(
    given: Mapping[str, str], choices: list[Choice], places: Places
) -> dict[str, list[str]]:
    """The arguments of the command line for each filled field; empty fields say nothing.

    A value is one argument with its option, ``--name=value``, so that it is never taken for
    another option.

    Raises:
        UsageError: a value is too long, none of those offered, or a place that is not allowed.
    """
    made: dict[str, list[str]] = {}
    for choice in choices:
        value = given.get(choice.name, "").strip()
        if not value:
            continue
        if len(value) > LONGEST or not value.isprintable():
            raise UsageError(f"{choice.label}: at most {LONGEST} characters, in one line.")
        if choice.kind == "choice" and value not in choice.options:
            raise UsageError(f"{choice.label}: {value!r} is none of {', '.join(choice.options)}.")
        if choice.kind == "place":
            value = str(places.find(value))
        option = f"--{choice.name}"
        made[choice.name] = [f"{option}={value}"]
        if choice.kind == "flag":
            made[choice.name] = [option]
        elif choice.kind == "pair":
            if not _PAIR.fullmatch(value):
                raise UsageError(f"{choice.label}: two numbers with a space between them.")
            made[choice.name] = [option, *value.split()]
    return made


def release_folder(places: Places, name: str) -> Path:
    """Where a release of that name goes: a folder of releases in the first allowed root.

    Raises:
        UsageError: the name is none, or is taken.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"The release's name {name!r} may have letters, digits and . _ = - and begins with a "
            "letter or a digit."
        )
    folder = places.roots[0] / "sfumato-releases"
    if folder.is_symlink() or (folder / name).is_symlink() or (folder / name).exists():
        raise UsageError(f"{folder / name} is there already. Choose another name.")
    return folder / name


def suggested_name(data: str, given: Mapping[str, str]) -> str:
    """A name for the release of ``data``, from what is public."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(data).name.split(".")[0]).strip("-") or "images"
    epsilon = re.sub(r"[^0-9.]", "", given.get("epsilon", "")) or "1"
    return f"{stem}-{given.get('method') or 'mepf'}-eps{epsilon}"[:100]
