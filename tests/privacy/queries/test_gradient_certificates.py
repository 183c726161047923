"""The certificate of a query that is answered step by step: what it states, and what is found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data import open_images
from sfumato.data.source import ImageSource
from sfumato.privacy import Budget, Curator, GradientQuery, Plan, TopSigns, make_plan
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.privacy.noise.integer_gaussian import NOISE_PATH
from sfumato.release.certificate import make_core
from sfumato.release.verification import claim

BUDGET = Budget(2.0, 1e-5)
STEPS = 5
QUERY = GradientQuery("g", 500, clip_norm=0.5, sampling_rate=0.1, steps=STEPS)
VOTES = GradientQuery("g", 500, None, 0.1, STEPS, compress=TopSigns(30))


class CrossEntropy:
    """The loss of softmax regression on 49 mean intensities."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        means = F.adaptive_avg_pool2d(images.float() / 255, 7).flatten(1)
        return F.cross_entropy(network(means), labels, reduction="none")


def answer(curator: Curator, plan: Plan) -> Tensor:
    """Ask for every step; returns the last answer."""
    curator.open_plan(plan)
    torch.manual_seed(0)
    network = nn.Linear(49, 10)
    for step in range(STEPS):
        found = curator.gradient("g", step, network, CrossEntropy())
        assert found.dtype == torch.float64 and found.shape == (QUERY.dimension,)
    return found


@pytest.fixture(scope="module")
def digits() -> ImageSource:
    return open_images("digits")


@pytest.fixture(scope="module")
def core(digits: ImageSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the certificate of a finished run states."""
    state = tmp_path_factory.mktemp("certified")
    plan = make_plan({"name": "test", "config": {}}, [QUERY], BUDGET, digits.spec)
    with Curator(digits, BUDGET, state=state, quiet=True) as curator:
        answer(curator, plan)
        return make_core(curator.record())


def charge(core: dict[str, Any]) -> None:
    """Make a changed core consistent again, as a forger who knows the format would."""
    planned = {key: core[key] for key in ("budget", "method", "spec", "queries", "events")}
    entry = core["ledger"][0]
    entry |= {key: core[key] for key in ("events", "budget", "method", "noise", "accountant")}
    entry["plan"], previous = digest(planned), GENESIS
    for index, entry in enumerate(core["ledger"]):
        core["ledger"][index] = seal({**entry, "prev": previous})
        previous = core["ledger"][index]["hash"]


def test_the_certificate_of_a_run_of_many_steps_has_no_problem(core: dict[str, Any]) -> None:
    assert list(claim.problems(core)) == [] and not claim.is_stamped(core)
    assert core["noise"] == NOISE_PATH
    assert core["events"][0]["count"] == STEPS and core["events"][0]["sampling_rate"] == 0.1
    assert 0.999 * 2 <= core["epsilon"] <= 2
    same = copy.deepcopy(core)
    charge(same)
    assert same == core  # so the forgeries below do not fail for its sake


@pytest.mark.parametrize(
    ("places", "value"),
    [
        ([("events", "count"), ("queries", "steps")], 2 * STEPS),
        ([("events", "count"), ("queries", "steps")], 1),
        ([("events", "count")], 1),
        ([("events", "sampling_rate"), ("queries", "sampling_rate")], 0.05),
        ([("events", "sampling_rate"), ("queries", "sampling_rate")], 0.2),
        ([("events", "sampling_rate"), ("queries", "sampling_rate")], 1.0),
        ([("events", "sampling_rate")], 0.05),
        ([("queries", "steps")], 1),
        ([("events", "noise_std")], "half"),
        ([("events", "noise_std")], "double"),
        ([("events", "clip_norm")], 0.25),
        ([("queries", "clip_norm")], 0.25),
        ([("noise",)], "discrete Gaussian, exact, operating-system entropy (OpenDP)"),
        ([("noise",)], "Gaussian, numpy"),
    ],
)
def test_a_false_certificate_fails_though_every_hash_in_it_is_right(
    core: dict[str, Any], places: list[tuple[str, ...]], value: Any
) -> None:
    forged = copy.deepcopy(core)
    for place in places:
        holder = forged if len(place) == 1 else forged[place[0]][0]
        factor = {"half": 0.5, "double": 2.0}.get(value) if isinstance(value, str) else None
        holder[place[-1]] = holder[place[-1]] * factor if factor else value
    charge(forged)
    assert list(claim.problems(forged))


@pytest.fixture(scope="module")
def voted(digits: ImageSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the certificate of a run on votes states."""
    made = make_plan({"name": "test", "config": {}}, [VOTES], BUDGET, digits.spec)
    state = tmp_path_factory.mktemp("voted")
    with Curator(digits, BUDGET, state=state, quiet=True) as curator:
        assert answer(curator, made).any()
        return make_core(curator.record())


def test_the_certificate_of_votes_has_no_problem_and_the_same_price(
    core: dict[str, Any], voted: dict[str, Any]
) -> None:
    assert list(claim.problems(voted)) == [] and voted["epsilon"] == pytest.approx(core["epsilon"])
    (event,) = voted["events"]
    assert event["clip_norm"] == 30**0.5 == event["sensitivity"]["add-or-remove-one"]


@pytest.mark.parametrize(
    "forgery",
    [
        {"compress": {"entries": 15, "stochastic": True}},
        {"compress": {"entries": 60, "stochastic": True}},
        {"compress": {"entries": 30.0, "stochastic": True}},
        {"compress": {"entries": True, "stochastic": True}},
        {"compress": {"entries": -30, "stochastic": True}},
        {"compress": {"entries": 30}},
        {"compress": {"entries": 30, "stochastic": True, "shared": False}},
        {"compress": None},
        {"compress": 30},
        {"clip_norm": 30**0.5},
        {"clip_norm": 0.5},
    ],
)
def test_a_certificate_with_other_votes_than_its_event_fails(
    voted: dict[str, Any], forgery: dict[str, Any]
) -> None:
    forged = copy.deepcopy(voted)
    forged["queries"][0] |= forgery
    charge(forged)
    assert any("no proof" in problem for problem in claim.problems(forged))
