from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import CertificateError
from sfumato.privacy import (
    RELATIONS,
    AggregateQuery,
    GradientQuery,
    HistogramQuery,
    NearestQuery,
    Query,
    SumQuery,
    TopSigns,
    VoteQuery,
    both_relations,
)
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.privacy.noise.integer_gaussian import NOISE_PATH
from sfumato.privacy.plan import questions_of
from sfumato.release import verify
from sfumato.release.certificate import core_of, own_digest, read_certificate
from sfumato.release.verification import claim, mechanisms
from sfumato.release.verification.verify import problems

Certificate = dict[str, Any]
Path_ = tuple[str | int, ...]


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def flipped(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.97
    if value is None:
        return 1
    return value[:-1] + ("0" if value[-1:] != "0" else "1")


def set_leaf(certificate: Certificate, path: Path_, change: Callable[[Any], Any]) -> None:
    holder: Any = certificate
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = change(holder[path[-1]])


def charge(core: Certificate) -> None:
    """Make a changed core consistent again, as a forger who knows the format would."""
    plan = core["ledger"][0]
    plan |= {key: core[key] for key in ("events", "budget", "method", "noise", "accountant")}
    plan["plan"] = digest(questions_of(core))
    previous = GENESIS
    for index, entry in enumerate(core["ledger"]):
        core["ledger"][index] = seal({**entry, "prev": previous})
        previous = core["ledger"][index]["hash"]


def test_the_honest_core_has_no_problem(core: Certificate) -> None:
    assert list(claim.problems(core)) == []
    assert not claim.is_stamped(core)


def test_recomputed_epsilon_is_the_exact_one(core: Certificate) -> None:
    events = [Event.from_dict(event) for event in core["events"]]
    by_pld = both_relations(events, core["delta"])
    for relation in RELATIONS:
        assert claim.recompute(core)[relation] == pytest.approx(by_pld[relation], rel=1e-3)


def test_every_flipped_leaf_is_noticed(release: Path) -> None:
    certificate = read_certificate(release)
    paths = list(leaves(certificate))
    assert len(paths) > 60
    for path in paths:
        changed = copy.deepcopy(certificate)
        set_leaf(changed, path, flipped)
        (release / "certificate.json").write_text(json.dumps(changed))
        with pytest.raises(CertificateError):
            verify(release)


# What only the digest protects: these are no part of the guarantee of this release.
FREE = {
    ("sfumato",),
    ("release", "made_by"),
    ("release", "seed_public"),
    ("data_set_total", "runs"),
}


def test_every_flipped_leaf_is_noticed_even_with_a_fresh_digest(release: Path) -> None:
    certificate = read_certificate(release)
    for path in leaves(certificate):
        if path in FREE or path == ("digest",):
            continue
        changed = copy.deepcopy(certificate)
        set_leaf(changed, path, flipped)
        changed["digest"] = own_digest(changed)
        assert list(problems(release, changed)), path


def halve_noise(core: Certificate) -> None:
    for event in core["events"]:
        event["noise_std"] /= 2


def halve_sensitivity(core: Certificate) -> None:
    for event in core["events"]:
        for relation in RELATIONS:
            event["sensitivity"][relation] /= 2


def claim_less(core: Certificate) -> None:
    core["epsilon"] = core["epsilon_by_relation"]["add-or-remove-one"] = 1.0


def claim_less_of_the_other(core: Certificate) -> None:
    core["epsilon_by_relation"]["replace-one"] = core["epsilon"]


def claim_more(core: Certificate) -> None:
    core["epsilon"] = core["epsilon_by_relation"]["add-or-remove-one"] = 5.0


def change_relation(core: Certificate) -> None:
    core["relation"] = core["budget"]["relation"] = "replace-one"
    core["epsilon"] = core["epsilon_by_relation"]["replace-one"]


def larger_delta(core: Certificate) -> None:
    core["delta"] = core["budget"]["delta"] = 1e-9


def pretend_nonnegative(core: Certificate) -> None:
    core["queries"][0]["nonnegative"] = True


def raise_clip_norm(core: Certificate) -> None:
    core["queries"][0]["clip_norm"] *= 2
    core["events"][0]["clip_norm"] *= 2


def unknown_mechanism(core: Certificate) -> None:
    core["queries"][0]["query"] = core["events"][0]["query"] = "exponential"


def drop_event(core: Certificate) -> None:
    core["events"].pop()


def drop_query_and_event(core: Certificate) -> None:
    core["queries"].pop()
    core["events"].pop()


def drop_answer(core: Certificate) -> None:
    core["ledger"].pop()


def answer_twice(core: Certificate) -> None:
    core["ledger"].append(core["ledger"][1])


def answer_another(core: Certificate) -> None:
    core["ledger"][1]["name"] = "something else"


def swap_entries(core: Certificate) -> None:
    core["ledger"].reverse()


def other_run(core: Certificate) -> None:
    core["ledger"][1]["run"] = "0" * 16


def other_noise(core: Certificate) -> None:
    core["noise"] = "rounded Gaussian, numpy"


def other_unit(core: Certificate) -> None:
    core["unit"] = "patient"


def smaller_total(core: Certificate) -> None:
    core["data_set_total"]["epsilon"] /= 2


def two_releases(core: Certificate) -> None:
    core["events"][0]["count"] = 2


def small_budget(core: Certificate) -> None:
    core["budget"]["epsilon"] = 1.0


def no_noise(core: Certificate) -> None:
    core["events"][0]["noise_std"] = 0.0


@pytest.mark.parametrize(
    "forge",
    [
        halve_noise,
        halve_sensitivity,
        claim_less,
        claim_less_of_the_other,
        claim_more,
        change_relation,
        larger_delta,
        pretend_nonnegative,
        raise_clip_norm,
        unknown_mechanism,
        drop_event,
        drop_query_and_event,
        drop_answer,
        answer_twice,
        answer_another,
        other_run,
        other_noise,
        other_unit,
        smaller_total,
        two_releases,
        small_budget,
        no_noise,
    ],
)
def test_a_false_claim_fails_though_every_hash_in_it_is_right(
    core: Certificate, forge: Callable[[Certificate], None]
) -> None:
    forge(core)
    charge(core)
    assert list(claim.problems(core))


def test_charge_alone_changes_nothing(core: Certificate) -> None:
    # Else the forgeries above might fail for its sake.
    before = copy.deepcopy(core)
    charge(core)
    assert core == before


def test_swapped_entries_fail(core: Certificate) -> None:
    swap_entries(core)
    assert list(claim.problems(core))


def test_an_event_added_to_the_ledger_alone_fails(core: Certificate) -> None:
    core["ledger"][0]["events"] = core["ledger"][0]["events"] * 2
    core["ledger"][0] = seal(core["ledger"][0])
    core["ledger"][1] = seal({**core["ledger"][1], "prev": core["ledger"][0]["hash"]})
    assert list(claim.problems(core)) == ["events is not what the ledger was charged for"]


def test_the_stamp_is_seen_in_either_place(core: Certificate) -> None:
    assert claim.is_stamped({**core, "private": "NOT PRIVATE: x"})
    assert claim.is_stamped({**core, "noise": "NOT PRIVATE: x"})


def test_the_noise_that_the_package_draws_is_one_with_a_proof() -> None:
    for query, path in (
        ("sum", NOISE_PATH),
        ("nearest", NOISE_PATH),
        ("gradient", NOISE_PATH),
        ("aggregate", NOISE_PATH),
        ("vote", NOISE_PATH),
    ):
        assert mechanisms.NOISE_PATHS[query] == path


def contribution(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).float()


AGGREGATE = AggregateQuery("d", 3, 4, 0.7, 0.1, 5, 1.5, 8, 0.3, 2.5)


@pytest.mark.parametrize(
    "query",
    [
        SumQuery("a", contribution, 4, 1.5),
        SumQuery("b", contribution, 4, 0.5, nonnegative=True),
        HistogramQuery("c", lambda images, labels: labels, 7),
        NearestQuery("h", lambda images: images, 4, 7, steps=3),
        AGGREGATE,
        replace(AGGREGATE, gradient_dimension=0),
        GradientQuery("e", 4, 0.5, 0.1, 5),
        GradientQuery("f", 4, None, 0.1, 5, compress=TopSigns(3)),
        VoteQuery("g", 12, 6, 10, 5, parts=3),
    ],
)
def test_the_verifiers_own_table_agrees_with_the_queries(query: Query) -> None:
    event = query.event("add-or-remove-one")
    bound = mechanisms.sensitivity(query.to_dict(), event.clip_norm)
    assert bound is not None
    for relation in RELATIONS:
        assert math.isclose(bound[relation], query.sensitivity()[relation])
    assert mechanisms.sensitivity(query.to_dict(), 2.5 * event.clip_norm) is None
    hostile = {**query.to_dict(), "entries": 10**400, "compress": {"entries": 10**400}}
    mechanisms.sensitivity(hostile, event.clip_norm)
    mechanisms.relative_noise({**hostile, "relative_noise": 10**400, "forward_noise": 10**400})


def test_an_aggregates_noise_is_that_of_its_two_parts() -> None:
    alone = replace(AGGREGATE, gradient_dimension=0)
    for query in (AGGREGATE, alone):
        assert mechanisms.relative_noise(query.to_dict()) == query.relative_noise
    for change in (
        {"forward_noise": 1.6},
        {"backward_noise": 2.0},
        {"backward_noise": -2.5},
        {"backward_noise": "2.5"},
        {"clip_norm": 0.0},
        {"gradient_clip_norm": None},
        {"relative_noise": 1.5},
        {"relative_noise": True},
    ):
        assert mechanisms.relative_noise({**AGGREGATE.to_dict(), **change}) is None, change
    without = {k: v for k, v in AGGREGATE.to_dict().items() if k != "backward_noise"}
    assert mechanisms.relative_noise(without) is None


HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, 2, -1, 10**400, 0.5, 1e308),
    *("", "0", "replace-one", "sum"),
    *([], {}, [None], [{}], {"": None}),
)
"""A value of each kind that JSON has, and such as other places of a certificate hold."""


def test_no_replaced_value_passes_or_breaks_the_verifier(honest: Path) -> None:
    core = core_of(read_certificate(honest))
    # The ledger is charged for questions; `arrays` derives them from the settings.
    settings = ("method", "config")
    bound = [p for p in leaves(core) if p not in FREE and p[:2] != settings]
    places = sorted({path[:cut] for path in bound for cut in range(1, len(path) + 1)}, key=str)
    assert len(places) > 60
    for place in places:
        for value in HOSTILE:
            changed = copy.deepcopy(core)
            set_leaf(changed, place, lambda _, value=value: value)
            passed = next(claim.problems(changed), None) is None
            passed = passed and not claim.is_stamped(changed)
            assert not passed or changed == core, (place, value)
