"""What a suite file says: which methods run on which data, at which ε, from which seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sfumato.data.readers.named import NAMED
from sfumato.errors import UsageError
from sfumato.evaluation.classifiers import recipe
from sfumato.methods import method_names
from sfumato.methods.registry import CLASSIFIERS
from sfumato.options import ClassifierOptions, MethodOptions
from sfumato.privacy import Budget, Relation
from sfumato.privacy.ledger import digest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class MethodChoice:
    """A method with options, under the label that tables show."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def public(self) -> str | None:
        """The name of the public images that it learns from, if it does."""
        return self.options.get("public")

    def chosen(self, seed: int, locations: Mapping[str, str]) -> MethodOptions:
        """What a run is asked for; ``locations`` say where data sets lie."""
        settings = {**self.options}
        preset, public = settings.pop("preset", None), settings.pop("public", None)
        where = None if public is None else locations[public]
        kind = ClassifierOptions if self.method in CLASSIFIERS else MethodOptions
        return kind(self.method, preset, settings, public=where, seed_public=seed)


@dataclass(frozen=True)
class Case:
    """One run; everything that its result depends on, beside code and machine."""

    data: str
    method: MethodChoice
    epsilon: float
    delta: float
    relation: Relation
    seed: int
    samples: int
    classifiers: tuple[str, ...]
    declared_size: int | None = None

    def key(self) -> str:
        """16 hexadecimal digits by which a finished run is recognised."""
        values = asdict(self)
        if self.declared_size is None:  # as lines say that were written before it existed
            del values["declared_size"]
        return digest(values)[:16]

    def __str__(self) -> str:
        return f"{self.data}, {self.method.label}, ε = {self.epsilon:g}, seed {self.seed}"


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Args:
        name: of the suite.
        public: must be true: the user's statement that the data sets are public. Metrics are
            measured on them without noise, and no ledger of theirs is charged.
        data: names of data sets, known ones or given a location when the suite is run.
        methods: what runs on each.
        epsilons, seeds: budgets, and public seeds; the noise differs between seeds too.
        samples: synthetic images of each run; 0 where all methods are private classifiers.
        classifiers: names in ``sfumato.evaluation.RECIPES``.
        delta, relation: of every budget.
        declared_size: the number of records, for methods that draw samples of them.

    Raises:
        UsageError: a value is outside its rule.
    """

    name: str
    public: bool
    data: tuple[str, ...]
    methods: tuple[MethodChoice, ...]
    epsilons: tuple[float, ...]
    seeds: tuple[int, ...]
    samples: int
    classifiers: tuple[str, ...]
    delta: float = 1e-5
    relation: Relation = "add-or-remove-one"
    declared_size: int | None = None

    def __post_init__(self) -> None:
        if self.public is not True:
            raise UsageError(
                f"suite {self.name!r}: public={self.public!r}. A benchmark measures on real images "
                "without noise and keeps a ledger of its own: run it on public data only, and say "
                "public = true in the suite."
            )
        for name in ("data", "methods", "epsilons", "seeds"):
            if not getattr(self, name):
                raise UsageError(f"suite {self.name!r}: {name} must not be empty.")
        for choice in self.methods:
            if choice.method not in method_names():
                raise UsageError(
                    f"suite {self.name!r}: method {choice.method!r} must be one of "
                    f"{', '.join(method_names())}."
                )
        for classifier in self.classifiers:
            recipe(classifier)
        for epsilon in self.epsilons:
            Budget(epsilon, self.delta, self.relation)
        if self.samples < 1 and any(choice.method not in CLASSIFIERS for choice in self.methods):
            raise UsageError(f"suite {self.name!r}: samples={self.samples} must be at least 1.")

    def cases(self) -> Iterator[Case]:
        """Every run: all settings with the first seed, then all with the next."""
        for seed in self.seeds:
            for data in self.data:
                for epsilon in self.epsilons:
                    for method in self.methods:
                        yield Case(
                            data,
                            method,
                            epsilon,
                            self.delta,
                            self.relation,
                            seed,
                            self.samples,
                            self.classifiers,
                            self.declared_size,
                        )

    def locations(self, given: Mapping[str, str]) -> dict[str, str]:
        """Where each data set lies: as ``given``, else by its known name.

        Raises:
            UsageError: a location is missing, or is given for no data set of the suite.
        """
        public = [choice.public for choice in self.methods if choice.public is not None]
        names = list(dict.fromkeys([*self.data, *public]))
        for name in given:
            if name not in names:
                raise UsageError(f"--data {name}: suite {self.name!r} has {', '.join(names)}.")
        for name in names:
            if name not in given and name not in NAMED:
                raise UsageError(
                    f"suite {self.name!r} needs the data set {name!r}. Say where it lies: "
                    f"--data {name}=PATH"
                )
        return {name: given.get(name, name) for name in names}


def load_suite(path: Path) -> Suite:
    """Read a suite file (TOML; the format is in ``docs/benchmarks.md``).

    Raises:
        UsageError: the file cannot be read, or a key or value is outside its rule.
    """
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"suite {path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UsageError(f"suite {path}: is not valid TOML ({error}).") from None
    known = {entry.name for entry in fields(Suite)}
    if unknown := sorted(stated.keys() - known):
        raise UsageError(f"suite {path}: {unknown[0]!r} is no key; it may have {sorted(known)}.")
    needed = {entry.name for entry in fields(Suite) if entry.default is MISSING}
    if missing := sorted(needed - stated.keys()):
        raise UsageError(f"suite {path}: {missing[0]!r} is missing.")
    try:
        methods = tuple(
            MethodChoice(label, options.pop("method", label), options)
            for label, options in stated["methods"].items()
        )
        lists = {name: tuple(stated[name]) for name in ("data", "epsilons", "seeds", "classifiers")}
        lists["epsilons"] = tuple(float(epsilon) for epsilon in lists["epsilons"])
        return Suite(**{**stated, **lists, "methods": methods})
    except (TypeError, ValueError, AttributeError):
        raise UsageError(
            f"suite {path}: a value is of the wrong type. Compare benchmarks/suites/digits.toml."
        ) from None
