"""Options as objects: one field an option, described once, in the docstring of its class.

The command line makes its options from these classes (``cli/parameters.py``), and the functions of
the library take their objects or their fields as keywords (:func:`gathered`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from inspect import cleandoc
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sfumato.errors import UsageError

Location = str | os.PathLike[str]


def check_seed(seed: int) -> None:
    """Refuse a public seed that a generator of random numbers does not take.

    Raises:
        UsageError: it does not lie from 0 to 2^63 - 1.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed_public={seed} must be a whole number from 0 to 2^63 - 1.")


@dataclass(frozen=True)
class MethodOptions:
    """Which method makes the images, and how it is set.

    Args:
        method: the method's name.
        preset: named settings of the method.
        options: settings of the method, over those of the preset.
        public: public images that the method may learn from; read like DATA.
        pretrain: steps on the images of --public, first of all, for methods that take them.
        public_model: a model that sfumato pretrain made, to start training from. That it was
            trained on public images alone is the one thing that cannot be checked: be sure of it.
        seed_public: public seed of training and sampling; the noise never has one.

    Raises:
        UsageError: the seed is outside its rule.
    """

    method: Any = "mepf"
    preset: str | None = None
    options: Mapping[str, Any] | None = None
    public: Location | None = None
    pretrain: int | None = None
    public_model: Location | None = None
    seed_public: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed_public)


@dataclass(frozen=True)
class PretrainOptions:
    """What is trained on public images, and where the model goes.

    Args:
        out: the file that the model is written to; samples of it go beside it.
        method: whose model is trained: dpdm or mepf.
        preset: cpu or gpu: named settings of the method.
        options: settings of the method, over those of the preset.
        source: where the public images are from; stands in the model's card.
        licence: under what licence; stands in the model's card.
        seed_public: public seed of training.
        quiet: show no progress.
        device: where networks are trained, cpu, cuda, cuda:N or mps; auto takes a CUDA GPU if there
            is one.
    """

    out: Location
    method: str = "dpdm"
    preset: str | None = None
    options: Mapping[str, Any] | None = None
    source: str = ""
    licence: str = "not stated"
    seed_public: int = 0
    quiet: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class ClassifierOptions(MethodOptions):
    """Which private classifier is trained, and how it is set.

    Args:
        method: the classifier's method.
        preset: named settings of the method.
        options: settings of the method, over those of the preset.
        public: public images that the method may learn from; read like DATA.
        pretrain: steps on the images of --public, first of all, for methods that take them.
        public_model: a model that sfumato pretrain made; no classifier starts from one.
        seed_public: public seed of training; the noise never has one.
        compress: train on the signs of each gradient's largest entries (TopAgg), with dp-sgd.
    """

    method: Any = "dp-sgd"
    compress: bool = False


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept, what it counts with, and how it is carried out.

    Args:
        cap: the most ε that DATA may ever be charged, over all its names and places, at the run's δ
            and relation; kept in its ledger.
        state: folder of ledgers and private runs, by default $SFUMATO_STATE or the user's own.
        allow_large_delta: accept a δ above 1/1,000 or 1/(number of records).
        fresh: charge a new run even where an unfinished one waits.
        same_data_as: the images are those that a ledger was kept for at this other location; from
            then on the costs of both add up.
        independent_data: declare that the images are no other ledger's; none is compared.
        quiet: show no progress.
        device: where everything is computed, cpu, cuda, cuda:N or mps; auto takes a CUDA GPU if
            there is one.
        engine: where sums over Parquet or WebDataset shards are computed, ray on this machine, or
            ray://HOST:PORT for a cluster of several; by default in the process itself.
        insecure_seed: for tests, the seed of all noise; the release is stamped NOT PRIVATE.
    """

    cap: float | None = None
    state: Location | None = None
    allow_large_delta: bool = False
    fresh: bool = False
    same_data_as: str | None = None
    independent_data: bool = False
    quiet: bool = False
    device: str = "auto"
    engine: str | None = None
    insecure_seed: int | None = None

    @property
    def folder(self) -> Path | None:
        """The state folder, None for the user's own."""
        return None if self.state is None else Path(self.state)


@dataclass(frozen=True)
class ReleaseOptions:
    """Where a release goes and what it holds.

    Args:
        out: new folder for the release.
        samples: number of synthetic images; the declared size by default, else 10,000.
        format: folder (PNG), parquet or webdataset.
        force: replace a release that is in the folder.
        balance: as many images of each class; else classes follow their noisy sizes.
    """

    out: Location
    samples: int | None = None
    format: str = "folder"
    force: bool = False
    balance: bool = False


@dataclass(frozen=True)
class EvaluationOptions:
    """How a release is measured on real images.

    Args:
        classifiers: of logistic, mlp, cnn, resnet, with commas between them.
        repeats: trainings of each classifier, for the spread.
        inception: Inception-v3 weights for the fidelity scores.
        extractor: another network for the fidelity scores, torchvision:MODEL or timm:MODEL.
        quick: a tenth of the epochs, named so in the result, for a first look.
        public: declare the real images public: no watermark.
        train: real training images for comparison; DATA's split train by default.

    Raises:
        UsageError: two networks are named, or ``repeats`` is below 1.
    """

    classifiers: Sequence[str] = ("logistic", "mlp", "cnn")
    repeats: int = 1
    inception: str | None = None
    extractor: str | None = None
    quick: bool = False
    public: bool = False
    train: str | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"repeats={self.repeats} must be at least 1.")
        if self.inception is not None and self.extractor is not None:
            raise UsageError("inception and extractor exclude each other: one network at a time.")

    @property
    def network(self) -> str | None:
        """The network of the fidelity scores by its full name; None for the one that ships."""
        return self.extractor if self.inception is None else f"inception:{self.inception}"


@dataclass(frozen=True)
class PaidMetrics:
    """Metrics on private images that are paid for, and so may be released.

    Args:
        publish_metrics: pay for metrics with --epsilon of the real test images, and put them in the
            release.
        epsilon: privacy budget ε of --publish-metrics.
        delta: privacy budget δ of --publish-metrics, well below 1/(number of records).
        relation: neighbouring relation: add-or-remove-one or replace-one.
    """

    publish_metrics: bool = False
    epsilon: float | None = None
    delta: float = 1e-5
    relation: str = "add-or-remove-one"


@dataclass(frozen=True)
class AuditOptions:
    """How strong an audit is.

    Args:
        canaries: canaries put into DATA by fair coins, each an image, or with --unit or
            --unit-pattern a unit of three; 1000 or more say something.
        confidence: probability that all lower bounds together hold.
    """

    canaries: int = 1000
    confidence: float = 0.95


@dataclass(frozen=True)
class BenchOptions:
    """What is run of a suite, and where its data lie.

    Args:
        data: where a data set of the suite lies, repeatable.
        budget_minutes: start no run that would end later than this.
        retry: do failed runs again.
        tables: run nothing; write the tables anew.
        page: a Markdown page whose section of this suite is rewritten too.
    """

    data: Sequence[str] | None = None
    budget_minutes: float | None = None
    retry: bool = False
    tables: bool = False
    page: Path | None = None


def gathered(
    what: str, kinds: Sequence[type[Any]], given: Sequence[Any], stated: Mapping[str, Any]
) -> list[Any]:
    """One object of each kind: what is ``given``, with the ``stated`` fields in place of its own.

    Args:
        what: the function that is called, for messages.
        kinds: dataclasses without a field in common.
        given: at most one object of each kind.
        stated: fields of any of them, by name.

    Raises:
        UsageError: a field is unknown or missing, or an object is of no kind or twice there.
    """
    known = {entry.name for kind in kinds for entry in fields(kind)}
    if unknown := sorted(set(stated) - known):
        raise UsageError(
            f"{what} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}."
        )
    objects: dict[type[Any], Any] = {}
    for one in given:
        if type(one) not in kinds or type(one) in objects:
            names = ", ".join(kind.__name__ for kind in kinds)
            raise UsageError(f"{what} takes at most one of each of {names}, not {one!r:.80}.")
        objects[type(one)] = one
    return [_made(what, kind, objects.get(kind), stated) for kind in kinds]


def _made(what: str, kind: type[Any], given: Any, stated: Mapping[str, Any]) -> Any:
    own = {entry.name: stated[entry.name] for entry in fields(kind) if entry.name in stated}
    if given is not None:
        return replace(given, **own)
    for entry in fields(kind):
        without = entry.default is MISSING and entry.default_factory is MISSING
        if without and entry.name not in own:
            raise UsageError(f"{what} needs {entry.name}=.")
    return kind(**own)


def described(kind: type[Any]) -> dict[str, str]:
    """What the ``Args`` section of a class's docstring says of each argument."""
    _, _, section = cleandoc(kind.__doc__ or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.strip() and not line.startswith("    "):
            break  # the next section
        if line.strip() and not line.startswith(" " * 8):
            stated, _, text = line.strip().partition(": ")
            names = [name.strip() for name in stated.split(",")]
            found |= dict.fromkeys(names, text)
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


_FORMS = {
    bool: "true or false",
    int: "a whole number from 0 to 2^63 - 1",
    float: "a number from 0 to 10^12",
    str: "a text",
}


def check_types(kind: type[Any], method: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for the first setting whose value is not of the form that its field has.

    Every number of a method is finite and not negative; a method's own rules say more.
    """
    try:
        hints = get_type_hints(kind)
    except NameError:  # a method of another package names types that it imports for checkers alone
        return
    for name, value in values.items():
        if not _has_form(value, hints[name]):
            forms = [_FORMS[part] for part in _parts(hints[name]) if part in _FORMS]
            listed = " or ".join(forms) or "of another type"
            raise UsageError(
                f"{method}: {name}={value!r} must be {listed}; see sfumato methods {method}."
            )


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a hint names, one level down."""
    return get_args(hint) or (hint,)


def _has_form(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_has_form(value, part) for part in get_args(hint))
    if hint is type(None):
        return value is None
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        return isinstance(value, (list, tuple)) and all(_has_form(each, part) for each in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    if hint is float:
        return (
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e12
        )
    return isinstance(value, hint) if hint in (bool, str) else True
