"""Whether a certificate's core proves its ε: the second look, from the certificate alone.

Sensitivities come from a table written here, not from the queries' code, and ε from the closed
form or a convolution, which share nothing with the accountant of whoever wrote the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError
from sfumato.privacy import RELATIONS, Event, Relation, epsilon_recomputed
from sfumato.privacy.accounting.epsilon import tolerance
from sfumato.privacy.accounting.events import is_sampled
from sfumato.privacy.charging import INDEPENDENT_DATA, SAME_DATA
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.privacy.plan import questions_of
from sfumato.release.certificate import NOT_PRIVATE, RECORD, Certificate, encoder_of
from sfumato.release.strict_json import mismatches
from sfumato.release.verification.mechanisms import (
    STEPWISE,
    noise_paths,
    relative_noise,
    sensitivity,
)
from sfumato.release.versions import VERSIONS

EXACT = 1e-9
PESSIMISM = 0.01
"""A claimed ε may lie this share above the exact one: the writer's accountant rounds up."""

MOST_STEPS = 10_000_000

_BUDGET = {"epsilon": float, "delta": float, "relation": str}
_METHOD = {"name": str, "config": dict}
_EVENT = {
    "query": str,
    "name": str,
    "clip_norm": float,
    "sensitivity": {relation: float for relation in RELATIONS},
    "noise_std": float,
    "count": int,
    "sampling_rate": float,
}
_CORE = {
    "epsilon": float,
    "delta": float,
    "relation": str,
    "unit": str,
    "epsilon_by_relation": {relation: float for relation in RELATIONS},
    "private": object,
    "classes": [str],
    "budget": _BUDGET,
    "method": _METHOD,
    "spec": {
        "height": int,
        "width": int,
        "channels": int,
        "classes": [str],
        "declared_size": object,
        "unit?": {"column": object, "pattern": object, "records_per_unit": int},
    },
    "queries": [dict],
    "events": [_EVENT],
    "noise": str,
    "accountant": str,
    "ledger": [dict],
    "data_set_total": {"epsilon": float, "runs": int, "units?": [str]},
    "encoder": object,
    "sfumato": str,
}
_ENTRY = {"kind": str, "run": str, "prev": str, "hash": str}
_ENTRIES = {
    "plan": {
        **_ENTRY,
        "plan": str,
        "method": _METHOD,
        "budget": _BUDGET,
        "noise": str,
        "accountant": str,
        "events": [_EVENT],
        "unit?": str,
        "declared?": str,
    },
    "answer": {**_ENTRY, "name": str, "answer": str},
}


def is_stamped(core: Mapping[str, Any]) -> bool:
    """Whether the run itself said that its noise protects nobody."""
    return any(NOT_PRIVATE in str(core.get(key)) for key in ("private", "noise"))


def recompute(core: Mapping[str, Any]) -> dict[Relation, float]:
    """ε of the certificate's events under every relation, by the second accountant.

    Only for a core in which :func:`problems` found nothing.
    """
    events = _events(core)
    return {name: epsilon_recomputed(events, float(core["delta"]), name) for name in RELATIONS}


def _events(core: Mapping[str, Any]) -> list[Event]:
    return [_event(values) for values in core["events"]]


def _event(values: Mapping[str, Any]) -> Event:
    return Event(
        values["query"],
        values["name"],
        float(values["clip_norm"]),
        {relation: float(values["sensitivity"][relation]) for relation in RELATIONS},
        float(values["noise_std"]),
        values["count"],
        float(values["sampling_rate"]),
    )


def spec_of(core: Mapping[str, Any]) -> PublicSpec:
    """The public specification that a core states; raises DataError if it is none."""
    return PublicSpec.from_dict(core["spec"])


def problems(core: Certificate) -> Iterator[str]:
    """Yield a sentence for everything that keeps a core from proving its ε.

    A stamped core is judged like any other; :func:`is_stamped` tells.
    """
    malformed = list(mismatches(core, _CORE, "certificate"))
    for index, entry in enumerate(core.get("ledger", []) if not malformed else []):
        shape = _ENTRIES.get(str(entry.get("kind")), {**_ENTRY, "kind": type(None)})
        malformed += mismatches(entry, shape, f"certificate.ledger[{index}]")
    malformed = malformed or list(_out_of_range(core))
    if malformed:
        yield from malformed[:20]
        return
    yield from _statement(core)
    yield from _sensitivities(core)
    yield from _ledger(core)
    yield from _price(core)


def _out_of_range(core: Certificate) -> Iterator[str]:
    # Beyond these bounds no accountant is to be trusted, and none is asked.
    for event in core["events"]:
        numbers = [event["clip_norm"], event["noise_std"], *event["sensitivity"].values()]
        in_range = all(1e-12 < number < 1e12 for number in numbers)
        once = event["count"] == 1 and event["sampling_rate"] == 1
        if event["query"] in STEPWISE and in_range:
            multiplier = event["noise_std"] / event["clip_norm"]
            in_range = 0.05 < multiplier < 1e6 and 1e-9 < event["sampling_rate"] <= 1
            once = 1 <= event["count"] <= MOST_STEPS
        if not (in_range and once):
            yield f"event {event['name'][:80]!r}: a number is out of range"
    budget, declared = core["budget"], core["spec"]["declared_size"]
    if budget["relation"] not in RELATIONS:
        yield f"relation must be one of {', '.join(RELATIONS)}"
    elif not (0 < budget["epsilon"] < 1e6 and 0 < budget["delta"] < 1 and 0 < core["delta"] < 1):
        yield "the budget's epsilon must be positive and its delta between 0 and 1"
    if declared is not None and (not isinstance(declared, int) or isinstance(declared, bool)):
        yield "declared_size must be a number or null"
        return
    try:
        spec_of(core)
    except DataError as error:
        yield str(error)
    if not core["events"]:
        yield "certificate.events is empty, but a release answers something"


def _statement(core: Certificate) -> Iterator[str]:
    budget = core["budget"]
    expected: dict[str, Any] = {
        "unit": spec_of(core).unit_in_words,
        "delta": budget["delta"],
        "relation": budget["relation"],
        "classes": core["spec"]["classes"],
        "epsilon": core["epsilon_by_relation"][budget["relation"]],
        "encoder": encoder_of(core["queries"]),
    }
    for key, value in expected.items():
        if core[key] != value:
            yield f"{key} is {core[key]!r:.90}, but the rest of the certificate says {value!r:.90}"
    if not is_stamped(core):
        if core["private"] is not True:
            yield "private must be true, or say that the release is not"
        known = noise_paths(core["sfumato"])
        paths = {known.get(event["query"], "") for event in core["events"]}
        if core["noise"] != "; ".join(sorted(paths)):
            yield f"noise {core['noise']!r:.200} is of no kind that has a proof for these queries"
    if core["sfumato"] not in VERSIONS:
        yield (
            f"sfumato {core['sfumato']!r:.60} is no version that this one knows; it knows "
            f"{', '.join(VERSIONS)}. If there is a newer one, verify with that"
        )


def _sensitivities(core: Certificate) -> Iterator[str]:
    queries, events = core["queries"], core["events"]
    names = [query.get("name") for query in queries]
    if names != [event["name"] for event in events] or len(set(map(str, names))) != len(names):
        yield "queries and events are not the same, in the same order, each once"
        return
    scales = []
    for query, event in zip(queries, events, strict=True):
        name = event["name"][:80]
        if query.get("query") != event["query"]:
            yield f"event {name!r} is of another mechanism than its query"
            continue
        bound = sensitivity(query, float(event["clip_norm"]))
        if bound is None:
            yield f"query {name!r}: its mechanism or clip norm has no proof"
            continue
        for relation, value in bound.items():
            if not math.isclose(event["sensitivity"][relation], value, rel_tol=EXACT):
                yield f"event {name!r}: sensitivity under {relation} must be {value:.10g}"
        if event["query"] in STEPWISE:
            stated = query.get("steps"), query.get("sampling_rate", 1.0)
            if stated != (event["count"], event["sampling_rate"]):
                yield f"event {name!r}: its steps or sampling rate are not its query's"
        if relative := relative_noise(query):
            scales.append(event["noise_std"] / (relative * bound[core["budget"]["relation"]]))
        else:
            yield f"query {name!r}: relative_noise must be a positive number"
    if scales and max(scales) > min(scales) * (1 + EXACT):
        yield "the events' noise does not follow one common scale"


def _ledger(core: Certificate) -> Iterator[str]:
    entries = core["ledger"]
    previous = GENESIS
    for index, entry in enumerate(entries):
        if entry["prev"] != previous or seal(entry)["hash"] != entry["hash"]:
            yield f"ledger entry {index} does not continue the chain"
        previous = entry["hash"]
    kinds = [entry["kind"] for entry in entries]
    if kinds != ["plan"] + ["answer"] * len(core["events"]):
        yield "the ledger must hold one plan and then one answer for each query"
        return
    plan, *answers = entries
    if len({entry["run"] for entry in entries}) != 1:
        yield "the ledger's entries are of different runs"
    if sorted(entry["name"] for entry in answers) != sorted(e["name"] for e in core["events"]):
        yield "the ledger's answers are not those of the plan's queries"
    for key in ("events", "budget", "noise", "accountant"):
        if plan[key] != core[key]:
            yield f"{key} is not what the ledger was charged for"
    if plan.get("unit", RECORD) != core["unit"]:
        yield "unit is not what the ledger was charged for"
    if core["unit"] not in core["data_set_total"].get("units", [core["unit"]]):
        yield "data_set_total is not the total of this run and those before it"
    if plan.get("declared", SAME_DATA) not in (SAME_DATA, INDEPENDENT_DATA):
        yield "what the ledger says was declared is no declaration"
    # Questions are charged; earlier versions took all settings of the method for a part of them.
    asked = questions_of(core)
    if questions_of({**core, "method": plan["method"]}) != asked:
        yield "method is not what the ledger was charged for"
    planned = {key: core[key] for key in ("budget", "method", "spec", "queries", "events")}
    if plan["plan"] not in (digest(asked), digest(planned)):
        yield "the plan is not the one that the ledger was charged for"


def _price(core: Certificate) -> Iterator[str]:
    slack = tolerance(_events(core))
    recomputed = recompute(core)
    for relation, again in recomputed.items():
        claimed = core["epsilon_by_relation"][relation]
        if claimed < again * (1 - slack):
            yield (
                f"the events cost epsilon={again:.6g} under {relation}, more than the "
                f"{claimed:.6g} that is claimed: the noise is weaker than claimed"
            )
        elif claimed > again * (1 + PESSIMISM):
            yield f"the events cost epsilon={again:.6g} under {relation}, not {claimed:.6g}"
    budget, total = core["budget"], core["data_set_total"]
    again = recomputed[budget["relation"]]
    if again > budget["epsilon"] * (1 + slack):
        yield f"the events cost epsilon={again:.6g}, over the budget of {budget['epsilon']}"
    # Of one run alone the ledger gives the claimed ε, or the exact one where there is one.
    alone = core["epsilon"] if is_sampled(_events(core)) else again
    least = again * (1 - slack) if total["runs"] > 1 else alone * (1 - EXACT)
    most = math.inf if total["runs"] > 1 else alone * (1 + EXACT)
    if total["runs"] < 1 or not least <= total["epsilon"] <= most:
        yield "data_set_total is not the total of this run and those before it"
