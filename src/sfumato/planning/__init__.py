"""What a run would ask and cost, remembered by the public facts that it depends on.

A plan is a function of the method's options, the data set's public specification, the budget and
the version of the code. Working it out takes an accountant and no network; so that the same
question is answered at once, it is kept in the state folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sfumato
from sfumato.disk import private_folder, write_atomically
from sfumato.methods.registry import BUILT_IN
from sfumato.options import MethodOptions
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.budget import Budget
from sfumato.privacy.ledger import digest
from sfumato.privacy.run import state_of

if TYPE_CHECKING:
    from sfumato.data import ImageSource
    from sfumato.methods.base import Method

FOLDER = "plans"


@dataclass(frozen=True)
class Planned:
    """A calibrated plan, and where it was measured the time and memory that its run will take."""

    facts: Mapping[str, Any]
    epsilons: Mapping[Any, float]
    digest: str
    estimate: Mapping[str, str] = field(default_factory=dict)

    @property
    def events(self) -> list[Event]:
        """The queries with the noise that they will get."""
        return [Event.from_dict(event) for event in self.facts["events"]]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.facts["method"]["name"])


def plan(
    source: ImageSource,
    budget: Budget,
    chosen: MethodOptions,
    state: Path | None,
    measure: bool = False,
) -> Planned:
    """What a run would ask and cost; reads no pixel and charges nothing.

    Args:
        measure: also measure what the run will take on this machine, by running its networks on
            empty images for some seconds.

    Raises:
        UsageError: the method or one of its options is not known, or a value is outside its rule.
    """
    if measure:
        found = plan(source, budget, chosen, state)
        return replace(found, estimate=_checked(source, chosen, state).estimate(source.spec))
    path = _path(source, budget, chosen, state)
    if path is not None and path.exists():
        try:
            kept = Planned(**json.loads(path.read_text(encoding="utf-8")))
            if kept.facts["budget"] == budget.to_dict() and kept.events:
                return kept
        except (OSError, ValueError, TypeError, KeyError):
            pass  # damaged: worked out again
    from sfumato.privacy.plan import plan_for

    made = plan_for(_checked(source, chosen, state), budget, source.spec)
    found = Planned(made.to_dict(), dict(made.epsilons()), made.digest())
    if path is not None:
        private_folder(path.parent)
        values = {entry.name: getattr(found, entry.name) for entry in fields(found)}
        write_atomically(path, json.dumps(values).encode())
    return found


def _checked(source: ImageSource, chosen: MethodOptions, state: Path | None) -> Method:
    """The method that is chosen, with its public images."""
    from sfumato.checks import check_public
    from sfumato.choosing import make_method

    method = make_method(chosen, source.spec)
    check_public(chosen.public, source, state)
    return method


def _path(
    source: ImageSource, budget: Budget, chosen: MethodOptions, state: Path | None
) -> Path | None:
    """Where the plan of these public facts is kept; None where it depends on more than they say."""
    if chosen.method not in BUILT_IN or chosen.public or chosen.public_model:
        return None
    facts = {
        "code": _code(),
        "method": {entry.name: getattr(chosen, entry.name) for entry in fields(chosen)},
        "spec": source.spec.to_dict(),
        "budget": budget.to_dict(),
    }
    return state_of(source, state) / FOLDER / f"{digest(facts)}.json"


def _code() -> list[Any]:
    """The version, and when the newest file of the package was written."""
    folder = os.path.dirname(sfumato.__file__)
    newest = max(
        entry.stat().st_mtime_ns
        for place, _, _ in os.walk(folder)
        for entry in os.scandir(place)
        if entry.name.endswith(".py")
    )
    return [sfumato.__version__, newest]
