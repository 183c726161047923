"""Arguments and options that several commands share, each described once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sfumato.errors import UsageError

Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="The private images: a location, or a known name."),
]
Release = Annotated[Path, typer.Argument(metavar="RELEASE", help="The folder of a release.")]
Out = Annotated[Path, typer.Option(help="New folder for the release.", metavar="DIR")]
Epsilon = Annotated[float, typer.Option(help="Privacy budget ε of this run; 0.2 to 10 are usual.")]
Delta = Annotated[float, typer.Option(help="Privacy budget δ; well below 1/(number of records).")]
AllowLargeDelta = Annotated[
    bool,
    typer.Option("--allow-large-delta", help="Accept a δ above 1/1,000 or 1/(number of records)."),
]
Relation = Annotated[
    str, typer.Option(help="Neighbouring relation: add-or-remove-one or replace-one.")
]
Cap = Annotated[
    float | None,
    typer.Option(help="The most ε that DATA may ever be charged; kept in this location's ledger."),
]
State = Annotated[
    Path | None,
    typer.Option(
        help="Folder of ledgers and private runs, by default $SFUMATO_STATE or the user's own.",
        metavar="DIR",
    ),
]
MethodName = Annotated[
    str,
    typer.Option("--method", help="mepf, moments for a quick answer, dpdm, dpgan, dpaf, datalens."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the method, repeatable: --set steps=500."),
]
Pretrain = Annotated[
    int | None, typer.Option(help="dpdm: training steps on the images of --public, first of all.")
]
Preset = Annotated[
    str | None,
    typer.Option(help="Named settings: dpdm and datalens have cpu and paper, dpgan and dpaf cpu."),
]
Public = Annotated[
    str | None,
    typer.Option(
        help="Public images that the method may learn from; read like DATA.", metavar="DATA"
    ),
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the images in pixels, 28 to 128.")]
Channels = Annotated[int | None, typer.Option(help="1 for grey, 3 for colour.")]
Classes = Annotated[
    str | None,
    typer.Option(help="How many classes, or their names in label order: cat,dog. 0: no labels."),
]
DeclaredSize = Annotated[
    int | None,
    typer.Option(
        help="Your public statement of the number of records, or of units with --unit or "
        "--unit-pattern; never counted for you."
    ),
]
Unit = Annotated[
    str | None,
    typer.Option(
        help="Column, array or JSON field of DATA that tells whose a record is: all records of one "
        "value are protected as one.",
        metavar="COLUMN",
    ),
]
UnitPattern = Annotated[
    str | None,
    typer.Option(
        help=r"The same from file names: patient_(\d+) makes patient_0042_03.png one with all "
        "others of patient 0042. A record whose name has no match is a unit of its own.",
        metavar="REGEX",
    ),
]
RecordsPerUnit = Annotated[
    int | None,
    typer.Option(help="The most records of a unit that are used, 16 by default; the rest is not."),
]
Split = Annotated[str | None, typer.Option(help="The split to read, where DATA has several.")]
Samples = Annotated[
    int | None,
    typer.Option(help="Number of synthetic images; the declared size by default, else 10,000."),
]
Format = Annotated[str, typer.Option(help="folder (PNG), parquet or webdataset.")]
SeedPublic = Annotated[
    int, typer.Option(help="Public seed of training and drawing; the noise never has one.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace a release that is in DIR.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def parse_relation(text: str) -> Literal["add-or-remove-one", "replace-one"]:
    """Read ``--relation``.

    Raises:
        UsageError: it is neither relation.
    """
    if text == "add-or-remove-one":
        return "add-or-remove-one"
    if text == "replace-one":
        return "replace-one"
    raise UsageError(f"--relation {text!r} must be add-or-remove-one or replace-one.")


def parse_classes(text: str | None) -> list[str] | int | None:
    """Read ``--classes``: a number, or names with commas between them."""
    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    return [name.strip() for name in text.split(",")]


def parse_settings(items: list[str] | None, pretrain: int | None = None) -> dict[str, Any]:
    """Read ``--set name=value``, a value being JSON where it can be, else a text; ``--pretrain``.

    Raises:
        UsageError: an item has no ``=``.
    """
    settings: dict[str, Any] = {} if pretrain is None else {"public_steps": pretrain}
    for item in items or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item!r} must be name=value, for example --set steps=500.")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings
