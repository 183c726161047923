"""Arguments and options of the commands, made from the option objects of the library.

A command takes an option object; :func:`grouped` gives it an option for each field of the object,
with the help that stands in its class's docstring. Only what is spelled otherwise on a command line
is said here.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, get_args, get_type_hints

import typer

from sfumato.data.options import DataOptions
from sfumato.errors import UsageError
from sfumato.methods.registry import BUILT_IN, CLASSIFIERS, method_names
from sfumato.options import (
    AuditOptions,
    BenchOptions,
    ClassifierOptions,
    EvaluationOptions,
    MethodOptions,
    PaidMetrics,
    PretrainOptions,
    ReleaseOptions,
    RunOptions,
    described,
)
from sfumato.privacy.budget import RELATIONS, Budget
from sfumato.privacy.budget import Relation as BudgetRelation

KINDS = (
    AuditOptions,
    BenchOptions,
    Budget,
    ClassifierOptions,
    DataOptions,
    EvaluationOptions,
    MethodOptions,
    PaidMetrics,
    PretrainOptions,
    ReleaseOptions,
    RunOptions,
)

# Every option of every command asks these, and there are hundreds.
_DESCRIBED = {kind: described(kind) for kind in KINDS}
_HINTS = {kind: get_type_hints(kind) for kind in KINDS}

Arguments = ParamSpec("Arguments")


def parse_classes(text: str | None) -> list[str] | int | None:
    """Read ``--classes``: a number, or names as a line of CSV, so that quotes may hold a comma."""
    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [text])]


def parse_relation(text: str) -> BudgetRelation:
    """Read ``--relation``.

    Raises:
        UsageError: it is neither relation.
    """
    for relation in RELATIONS:
        if text == relation:
            return relation
    raise UsageError(f"--relation {text!r} must be {' or '.join(RELATIONS)}.")


def parse_names(text: str) -> list[str]:
    """Read names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_settings(items: list[str] | None) -> dict[str, Any]:
    """Read ``--set name=value``, a value being JSON where it can be, else a text.

    Raises:
        UsageError: an item has no ``=``.
    """
    settings: dict[str, Any] = {}
    for item in items or []:
        name, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item!r} must be name=value, for example --set steps=500.")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def parse_workers(number: int | None) -> int:
    """Read ``--workers``: by default this process's share of the cores."""
    if number is not None:
        return number
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(frozen=True)
class Spelling:
    """How a field is spelled on the command line, where that is not its own name and type."""

    type: Any = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    parse: Callable[[Any], Any] = lambda value: value
    default: Any = ...
    more_help: str = ""
    hidden: bool = False


SPELLINGS = {
    "relation": Spelling(str, parse=parse_relation),
    "classes": Spelling(str | None, parse=parse_classes, more_help=". Names: cat,dog"),
    "unit": Spelling(flags=("--unit", "--unit-column", "--unit-tag"), metavar="COLUMN"),
    "label_key": Spelling(flags=("--label-key", "--label-column", "--label-tag"), metavar="NAME"),
    "image_key": Spelling(metavar="NAME"),
    "labels": Spelling(Path | None, metavar="TABLE"),
    "name_column": Spelling(metavar="COLUMN"),
    "value_range": Spelling(flags=("--value-range", "--float-range"), metavar="BLACK WHITE"),
    "dicom": Spelling(bool, flags=("--dicom",)),
    "workers": Spelling(parse=parse_workers, more_help="; on the command line, one a core"),
    "follow_links": Spelling(bool, flags=("--follow-links",)),
    "unit_pattern": Spelling(
        metavar="REGEX", more_help=r": patient_(\d+). A record without a match is its own unit"
    ),
    "method": Spelling(str),
    "preset": Spelling(more_help="; sfumato methods lists them"),
    "options": Spelling(list[str] | None, ("--set",), "NAME=VALUE", parse_settings, None),
    "public": Spelling(str | None, metavar="DATA"),
    "public_model": Spelling(Path | None, metavar="MODEL"),
    "state": Spelling(Path | None, metavar="DIR"),
    "out": Spelling(Path, metavar="DIR"),
    "samples": Spelling(flags=("--samples", "--count")),
    "quiet": Spelling(flags=("--quiet", "-q")),
    "insecure_seed": Spelling(hidden=True),
    "classifiers": Spelling(str, parse=parse_names, default="logistic,mlp,cnn"),
    "train": Spelling(str | None, metavar="DATA"),
    "data": Spelling(list[str] | None, metavar="NAME=PATH"),
    "inception": Spelling(metavar="PATH"),
}


def flag_of(kind: type[Any], name: str) -> str:
    """The first name that a field of an option object has on the command line."""
    (entry,) = (entry for entry in fields(kind) if entry.name == name)
    return (_spelling(kind, entry).flags or (f"--{name.replace('_', '-')}",))[0]


def option(kind: type[Any], name: str) -> Any:
    """The command-line option of one field of an option object."""
    (entry,) = (entry for entry in fields(kind) if entry.name == name)
    spelled = _spelling(kind, entry)
    text = _DESCRIBED[kind][name].replace("``", "").rstrip(".") + spelled.more_help
    return typer.Option(
        *(spelled.flags or (f"--{name.replace('_', '-')}",)),
        help=f"{text[0].upper()}{text[1:]}.",
        metavar=spelled.metavar,
        hidden=spelled.hidden,
    )


def _spelling(kind: type[Any], entry: Field[Any]) -> Spelling:
    if kind is EvaluationOptions and entry.name == "public":  # there it is no location
        return Spelling(bool)
    spelled = SPELLINGS.get(entry.name, Spelling())
    if kind is PretrainOptions:
        special = {"out": Spelling(Path, metavar="MODEL", default=...), "method": Spelling(str)}
        spelled = special.get(entry.name, spelled)
    elif entry.name == "method":
        known = method_names(CLASSIFIERS if kind is ClassifierOptions else BUILT_IN)
        spelled = replace(spelled, more_help=f": {', '.join(known)}")
    return replace(spelled, type=spelled.type or _HINTS[kind][entry.name])


Data = Annotated[
    str,
    typer.Argument(metavar="DATA", help="The private images: a location, or a known name."),
]
Release = Annotated[Path, typer.Argument(metavar="RELEASE", help="The folder of a release.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Also measure what the run will take here: its networks run for some seconds.",
    ),
]
Delta = Annotated[float, option(Budget, "delta")]
Relation = Annotated[str, option(Budget, "relation")]
Public = Annotated[str | None, option(MethodOptions, "public")]
PublicModel = Annotated[Path | None, option(MethodOptions, "public_model")]
SeedPublic = Annotated[int, option(MethodOptions, "seed_public")]
AllowLargeDelta = Annotated[bool, option(RunOptions, "allow_large_delta")]
Cap = Annotated[float | None, option(RunOptions, "cap")]
State = Annotated[Path | None, option(RunOptions, "state")]
Device = Annotated[str, option(RunOptions, "device")]
Quiet = Annotated[bool, option(RunOptions, "quiet")]


def grouped(command: Callable[Arguments, None]) -> Callable[..., None]:
    """Give ``command`` an option for each field of the option objects that it takes.

    A parameter whose annotation is ``Annotated[Kind, "field", …]`` takes these fields only.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[Field[Any]]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *only = get_args(hints[name]) or (hints[name],)
        if kind in KINDS:
            chosen = [entry for entry in fields(kind) if not only or entry.name in only]
            groups[name] = (kind, chosen)
            parameters += [_parameter(kind, entry) for entry in chosen]
        else:
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )

    @wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        values: dict[str, Any] = dict(kwargs)
        for name, (kind, chosen) in groups.items():
            stated = {entry: values.pop(entry.name) for entry in chosen}
            parsed = {e.name: _spelling(kind, e).parse(value) for e, value in stated.items()}
            values[name] = kind(**parsed)
        command(*args, **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(kind: type[Any], entry: Field[Any]) -> inspect.Parameter:
    spelled = _spelling(kind, entry)
    default = entry.default if spelled.default is ... else spelled.default
    return inspect.Parameter(
        entry.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[spelled.type, option(kind, entry.name)],
    )
