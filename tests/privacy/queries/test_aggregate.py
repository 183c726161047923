"""docs/proofs/aggregate.md: what a step releases, over which sample, once, with what noise."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from sfumato.errors import BudgetExceededError, SfumatoError, UsageError
from sfumato.privacy import RELATIONS, AggregateQuery, Budget, Curator, Plan, make_plan
from sfumato.privacy.answering import aggregate, sampled
from sfumato.privacy.answering.aggregate import AggregateAnswering
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.keys import RunKey
from sfumato.privacy.noise.poisson_sampling import poisson_sample
from sfumato.privacy.run import Run

SURE = 1e-6
S, C = 0.8, 1.5
SECRET = "patient Doe, HIV positive"
QUERY = AggregateQuery("a", 3, 4, S, 0.5, 4, 1.0, 8, C, 2.0)
EVERY = AggregateQuery("a", 3, 4, S, 1.0, 2, 1.0, 8, C, 2.0)
BUDGET = Budget(1.0, 1e-5)


class Pixels:
    """Features of two pixels and a draw; ``strange`` is what becomes of a pixel of 255."""

    def __init__(self, strange: float | Exception | None = None) -> None:
        self.strange = strange

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, generator=generator),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        x = images[:, 0, 0].float() / 50 + draws[0][:, None]
        if self.strange is not None:
            odd = images[:, 0, 0, 0] == 255
            if isinstance(self.strange, Exception) and bool(odd.any()):
                raise self.strange
            if isinstance(self.strange, float):
                x = torch.where(odd[:, None], self.strange, x)
        return network(x).tanh()


def lower(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Linear(2, 4, bias=False)
    nn.init.normal_(network.weight, std=scale)
    return network


def cotangent(scale: float = 1.0, seed: int = 1) -> Tensor:
    return scale * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


SEED = 4


def make(
    source: Any, folder: Path, query: AggregateQuery = EVERY, z: float = 1e-9, seed: int = SEED
) -> AggregateAnswering:
    event = replace(query.event(RELATIONS[0]), noise_std=z)
    run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), insecure_seed=seed)
    return AggregateAnswering(query, event, run)


def both(
    answering: AggregateAnswering, step: int, network: nn.Module, c: Tensor
) -> tuple[Tensor, Tensor]:
    features = Pixels()
    return answering.forward(step, network, features), answering.pull_back(
        step, network, features, c
    )


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


@pytest.fixture
def source(make_source: Callable) -> Any:
    rng = np.random.default_rng(3)
    return make_source([(int(v), int(v) % 3) for v in rng.integers(0, 2**16, 60)])


@pytest.fixture(scope="module")
def plan(make_source: Callable) -> Plan:
    return make_plan({"name": "test"}, [QUERY], BUDGET, make_source([]).spec)


# The query


def test_one_event_stands_for_both_parts() -> None:
    for relation, bound in zip(RELATIONS, (1.0, 2.0), strict=True):
        event = QUERY.event(relation)
        assert (event.clip_norm, event.sensitivity[relation]) == (1.0, bound)
        assert (event.count, event.sampling_rate) == (4, 0.5)
        z = event.noise_multiplier(relation)
        forward, backward = (
            std / clip for std, clip in zip(QUERY.noise_stds(z), (S, C), strict=True)
        )
        assert 1 / forward**2 + 1 / backward**2 == pytest.approx(1 / z**2)
        assert backward == pytest.approx(2 * forward)
    alone = AggregateQuery("a", 3, 4, S, 0.5, 4, 3.0)
    assert alone.noise_stds(6.0)[0] == pytest.approx(6.0 * S) and not alone.backward


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "a/b"}, "query name"),
        ({"rows": 0}, "rows=0"),
        ({"dimension": 0}, "dimension=0"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"gradient_clip_norm": -1.0}, "gradient_clip_norm"),
        ({"forward_noise": float("inf")}, "forward_noise"),
        ({"backward_noise": 0.0}, "backward_noise"),
        ({"sampling_rate": 1.5}, "sampling_rate"),
        ({"steps": 0}, "steps=0"),
        ({"gradient_dimension": -1}, "gradient_dimension"),
    ],
)
def test_values_outside_their_rules_are_refused(change: dict, match: str) -> None:
    values = {"name": "a", "rows": 1, "dimension": 2, "clip_norm": 1.0, "sampling_rate": 0.5}
    with pytest.raises(UsageError, match=match):
        AggregateQuery(**{**values, "steps": 1, **change})


# The bounds


records = st.tuples(st.integers(0, 2**16 - 1), st.sampled_from([0, 1, 2, -1]))


@settings(max_examples=40)
@given(
    common=st.lists(records, max_size=5),
    here=records,
    there=records,
    scale=st.sampled_from([1e-3, 1.0, 1e30]),
    pull=st.sampled_from([1e-3, 1.0, 1e30]),
    strange=st.sampled_from([None, float("nan"), float("inf"), 3e38]),
)
def test_neighbours_differ_by_the_clip_norms_at_most(
    make_source: Callable,
    common: list,
    here: tuple,
    there: tuple,
    scale: float,
    pull: float,
    strange: float | None,
) -> None:
    network, features, c = lower(scale), Pixels(strange), cotangent(pull)
    answers = []
    for mine in ([], [here], [there]):
        with tempfile.TemporaryDirectory() as folder:
            # Without noise, and the same cotangent for all: in the proof it is a function of A.
            steps = make(make_source([*common, *mine]), Path(folder), z=1e-30)
            sums = steps.forward(0, network, features)
            answers.append((sums.double(), steps.pull_back(0, network, features, c).double()))
    absent, first, second = answers
    for part, bound in enumerate((S, C)):
        assert float((first[part] - absent[part]).norm()) <= bound * (1 + 1e-5)
        assert float((first[part] - second[part]).norm()) <= 2 * bound * (1 + 1e-5)
        assert bool(torch.isfinite(first[part]).all())


def test_the_bounds_are_reached(make_source: Callable, tmp_path: Path) -> None:
    sums, gradient = both(
        make(make_source([(1000, 1)]), tmp_path, z=1e-30), 0, lower(), cotangent(100.0)
    )
    assert float(sums.norm()) == pytest.approx(S, rel=1e-3)
    assert float(sums[1].norm()) == pytest.approx(S, rel=1e-3)  # in the row of its class
    assert float(gradient.norm()) == pytest.approx(C, rel=1e-3)


def oracle(
    source: Any, query: AggregateQuery, network: nn.Module, c: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The first step without noise, unit by unit, one by one."""
    key = RunKey.of_run(Path(), SEED)
    index = poisson_sample(len(source.records), query.sampling_rate, key.stream("sample a", 0))
    draws = torch.rand(len(index), generator=key.torch_stream("draws a", 0, torch.device("cpu")))
    sums, gradient = np.zeros((3, 4)), np.zeros(8)
    for place, number in enumerate(index):
        value, label = source.records[number]
        if not 0 <= label < 3:
            continue
        x = torch.tensor([value % 256, value // 256]).float() / 50 + draws[place]
        weight = network.weight.detach().clone().requires_grad_()
        u = (weight @ x).tanh()
        u = u * (S / u.norm().clamp(min=S))
        sums[label] += u.detach().numpy()
        (v,) = torch.autograd.grad((u * c[label]).sum(), [weight])
        gradient += (v * min(1.0, C / v.norm().item())).flatten().numpy()
    return sums, gradient


@pytest.mark.parametrize("way", ["layers", "loop", "vmap"])
@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_answers_are_those_of_a_plain_loop_whatever_the_micro_batch(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, at_once: int
) -> None:
    rng = np.random.default_rng(3)
    source = make_source([(int(v), int(v) % 4) for v in rng.integers(0, 2**16, 40)])
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: (way, at_once))
    monkeypatch.setattr(aggregate, "IMAGES_AT_ONCE", at_once)
    network, c = lower(0.3), cotangent(5.0)
    found = both(make(source, tmp_path, QUERY), 0, network, c)
    for part, truth in zip(found, oracle(source, QUERY, network, c), strict=True):
        assert np.abs(truth).max() > 0.5
        assert part.numpy() == pytest.approx(truth, rel=2e-3, abs=2e-3)


def test_both_parts_are_over_one_sample_with_one_set_of_draws(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple] = []
    honest = sampled.SampledAnswering._sample

    def batch(self: Any, *arguments: Any) -> Any:
        made = honest(self, *arguments)
        seen.append((made.images, made.draws[0]))
        return made

    monkeypatch.setattr(sampled.SampledAnswering, "_sample", batch)
    steps = make(source, tmp_path, QUERY)
    both(steps, 0, lower(), cotangent())
    both(make(source, tmp_path, QUERY), 1, lower(), cotangent())  # as after a kill
    (first, again), (other, _) = seen[:2], seen[2:]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1][:5], other[1][:5])


# The noise


@pytest.mark.parametrize("part", [0, 1])
def test_noise_is_what_was_paid_for_in_both_parts(
    make_source: Callable, tmp_path: Path, part: int
) -> None:
    query = AggregateQuery("a", 3, 1000, S, 0.5, 1, 1.0, 3000, C, 2.0)
    (planned,) = make_plan({"name": "t"}, [query], BUDGET, make_source([]).spec).events
    network = nn.Linear(3, 1000, bias=False)
    steps = make(make_source([]), tmp_path, query, planned.noise_std)  # an empty sample

    class Nothing(Pixels):
        def __call__(self, network: nn.Module, images: Tensor, *_: Tensor) -> Tensor:  # type: ignore[override]
            return network(torch.zeros(len(images), 3))

    sums = steps.forward(0, network, Nothing())
    gradient = steps.pull_back(0, network, Nothing(), torch.zeros(3, 1000))
    drawn = (sums, gradient)[part].flatten().double().numpy()
    expected = query.noise_stds(planned.noise_std)[part]
    for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
        chance = stats.chi2.cdf((drawn**2).sum() / (factor * expected) ** 2, len(drawn))
        assert (SURE < chance < 1 - SURE) == right
    assert stats.kstest(drawn / expected, "norm").pvalue > SURE
    others = (gradient, sums)[part].flatten().double().numpy()
    assert abs(np.corrcoef(drawn, others)[0, 1]) < 0.12  # six standard deviations


# Once, and in turn


def test_the_second_part_follows_its_first_and_is_given_once(source: Any, tmp_path: Path) -> None:
    steps, network = make(source, tmp_path, QUERY, z=1.0), lower()
    with pytest.raises(UsageError, match="must be asked for after its sums"):
        steps.pull_back(0, network, Pixels(), cotangent())
    sums = steps.forward(0, network, Pixels())
    gradient = steps.pull_back(0, network, Pixels(), cotangent())
    for again in (steps, make(source, tmp_path, QUERY, z=50.0)):
        assert torch.equal(again.forward(0, lower(2.0), Pixels()), sums)
        assert torch.equal(again.pull_back(0, lower(2.0), Pixels(), cotangent(9.0, 4)), gradient)
    steps.forward(1, network, Pixels())
    steps.forward(2, network, Pixels())
    with pytest.raises(UsageError, match="newest step is 2"):
        steps.pull_back(1, network, Pixels(), cotangent())  # it was left out, and stays out
    with pytest.raises(UsageError, match="must be the next one"):
        steps.pull_back(4, network, Pixels(), cotangent())
    assert torch.equal(steps.pull_back(0, network, Pixels(), cotangent()), gradient)


def test_what_does_not_fit_the_query_is_refused(source: Any, tmp_path: Path) -> None:
    steps = make(source, tmp_path)
    steps.forward(0, lower(), Pixels())
    with pytest.raises(UsageError, match="cotangent has shape"):
        steps.pull_back(0, lower(), Pixels(), cotangent().T)
    with pytest.raises(UsageError, match="6 parameters"):
        steps.pull_back(0, nn.Linear(2, 3, bias=False), Pixels(), cotangent())
    forward = make(source, tmp_path, AggregateQuery("f", 3, 4, S, 1.0, 2))
    forward.forward(0, lower(), Pixels())
    with pytest.raises(UsageError, match="planned without a gradient"):
        forward.pull_back(0, lower(), Pixels(), cotangent())


def test_a_query_outside_the_plan_is_refused(source: Any, plan: Plan, tmp_path: Path) -> None:
    with Curator(source, BUDGET, state=tmp_path, quiet=True) as curator:
        curator.open_plan(plan)
        with pytest.raises(BudgetExceededError):
            curator.aggregate("other", 0, lower(), Pixels())
        with pytest.raises(BudgetExceededError):
            curator.pull_back("other", 0, lower(), Pixels(), cotangent())


def test_errors_over_private_data_are_withheld(make_source: Callable, tmp_path: Path) -> None:
    steps = make(make_source([(255, 0), (3, 1)]), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SfumatoError, match="failed with ValueError") as caught:
            steps.forward(0, lower(), Pixels(ValueError(SECRET)))
    assert SECRET not in repr(caught.getrepr(chain=True))
    steps.forward(0, lower(), Pixels())
    with pytest.raises(SfumatoError, match="withheld") as caught:
        steps.pull_back(0, lower(), Pixels(ValueError(SECRET)), cotangent())
    assert SECRET not in repr(caught.getrepr(chain=True))
