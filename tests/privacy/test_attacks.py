"""What a method's code may try inside the curator, and what float noise gave away before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.data.source import ImageSource
from sfumato.errors import SfumatoError, UsageError
from sfumato.privacy import (
    RELATIONS,
    AggregateQuery,
    Curator,
    GradientQuery,
    HistogramQuery,
    SumQuery,
    TopSigns,
    make_plan,
)
from sfumato.privacy.answering import sampled
from sfumato.privacy.answering.aggregate import AggregateAnswering
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.gradients.topagg import VOTE_BITS, add_votes
from sfumato.privacy.grid import UNIT
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run

QUERY = GradientQuery("g", 2, 1.5, 1.0, 3)
FEATURES = AggregateQuery("a", 3, 2, 0.7, 1.0, 2)


class Pixels:
    """A loss that is linear in the first two pixels."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        return network(images[:, 0, 0].float() / 100)[:, 0]


def answering(
    kind: Any, query: Any, source: ImageSource, folder: Path, noise_std: float = 1.0
) -> Any:
    event = replace(query.event(RELATIONS[0]), noise_std=noise_std)
    return kind(query, event, OpenRun(source, Run(folder, "r", hold=False), Ledger(folder)))


@pytest.fixture
def source(make_source: type) -> ImageSource:
    return make_source([(300 + number, number % 3) for number in range(9)])


@pytest.fixture(autouse=True)
def _one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1, bias=False)


def on_grid(values: np.ndarray, step: float) -> bool:
    """Whether each value is the float64 nearest to a whole number of steps."""
    return bool((np.rint(values / step) * step == values).all())


def test_every_answer_lies_on_its_grid(
    source: ImageSource, make_curator: Callable[..., Curator]
) -> None:
    total = SumQuery("s", lambda images, labels: images.flatten(1).float() / 300, 4, 0.3)
    votes = HistogramQuery("h", lambda images, labels: labels, 3)
    signs = GradientQuery("v", 2, None, 1.0, 3, compress=TopSigns(1))
    with make_curator(source) as curator:
        queries = [total, votes, QUERY, signs, FEATURES]
        curator.open_plan(make_plan({"name": "t"}, queries, curator.budget, curator.spec))
        assert on_grid(curator.sum("s").total, 0.3 / UNIT)
        assert on_grid(curator.histogram("h").total, 1 / UNIT)
        for step in range(3):
            # As float32 with float noise, answers near zero lay between the grid's points.
            assert on_grid(curator.gradient("g", step, network(), Pixels()).numpy(), 1.5 / UNIT)
            assert on_grid(curator.gradient("v", step, network(), Pixels()).numpy(), 2**-VOTE_BITS)
        sums = curator.aggregate("a", 0, nn.Linear(2, 2), Features())
        assert on_grid(sums.numpy(), 0.7 / UNIT)


class Features(Pixels):
    """Two features of a unit."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        return network(images[:, 0, 0].float() / 100)


def test_a_copy_of_the_runs_folder_does_not_repeat_the_noise(
    source: ImageSource, tmp_path: Path
) -> None:
    answering(GradientAnswering, QUERY, source, tmp_path / "a").answer(0, network(), Pixels())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    seen = [
        answering(GradientAnswering, QUERY, source, tmp_path / name).answer(1, network(), Pixels())
        for name in "ab"
    ]
    assert not torch.equal(*seen)  # the same sample and network: only the noise differs


def test_batch_statistics_are_refused_by_name(source: ImageSource, tmp_path: Path) -> None:
    norm = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    with pytest.raises(UsageError, match=r"layer 1 \(BatchNorm1d\).*GroupNorm"):
        answering(GradientAnswering, QUERY, source, tmp_path).answer(0, norm, Pixels())


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_a_network_that_is_changed_behind_the_curators_back_is_put_back(
    source: ImageSource, tmp_path: Path, kind: str
) -> None:
    original = network()
    original.register_buffer("seen", torch.zeros(2))
    before = {name: value.clone() for name, value in original.state_dict().items()}

    class Smuggling(Pixels):
        def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, /, *_: Tensor):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                target = original.weight if kind == "parameter" else original.seen
                target += images[:, 0, 0].float().mean(dim=0)
            return super().__call__(network, images, labels)

    with pytest.raises(SfumatoError, match="was changed while"):
        answering(GradientAnswering, QUERY, source, tmp_path).answer(0, original, Smuggling())
    after = original.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_change_of_the_network_that_is_lent_stays_inside(
    source: ImageSource, tmp_path: Path
) -> None:
    original = network()
    before = original.weight.detach().clone()

    class Writing(Pixels):
        def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, /, *_: Tensor):  # type: ignore[no-untyped-def]
            network.note = images
            return super().__call__(network, images, labels)

    answering(GradientAnswering, QUERY, source, tmp_path).answer(0, original, Writing())
    assert torch.equal(original.weight, before) and not hasattr(original, "note")


def test_features_that_see_their_mates_are_asked_one_by_one(
    source: ImageSource, tmp_path: Path
) -> None:
    class Centred(Features):
        def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, /, *_: Tensor):  # type: ignore[no-untyped-def]
            rows = super().__call__(network, images, labels)
            return rows - 1e-6 * rows.mean(dim=0)

    steps = answering(AggregateAnswering, FEATURES, source, tmp_path)
    steps.forward(0, nn.Linear(2, 2), Centred())
    assert steps._size == 1
    plain = answering(AggregateAnswering, FEATURES, source, tmp_path / "plain")
    plain.forward(0, nn.Linear(2, 2), Features())
    assert plain._size > 1


def test_a_repeated_index_counts_once_and_a_long_vote_not_at_all() -> None:
    total = torch.zeros(5, dtype=torch.int64)
    add_votes(total, torch.tensor([[1, 1, 1, 1]]), torch.ones(1, 4, dtype=torch.int8), 4)
    assert total.tolist() == [0, 2**VOTE_BITS, 0, 0, 0]
    total.zero_()
    add_votes(total, torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.int8), 2)
    add_votes(total, torch.tensor([[-1, 9]]), torch.ones(1, 2, dtype=torch.int8), 2)
    add_votes(total, torch.tensor([[3]]), torch.full((1, 1), 2, dtype=torch.int8), 2)
    assert not total.any()


@pytest.mark.parametrize("clip_norm", [1e-40, 1e-13, 1e13])
def test_clip_norms_at_which_something_underflows_are_refused(clip_norm: float) -> None:
    with pytest.raises(UsageError, match="clip_norm"):
        GradientQuery("g", 2, clip_norm, 0.5, 1)
    with pytest.raises(UsageError, match="clip_norm"):
        SumQuery("s", lambda images, labels: images, 2, clip_norm)
    with pytest.raises(UsageError, match="gradient_clip_norm"):
        AggregateQuery("a", 1, 2, 1.0, 0.5, 1, gradient_clip_norm=clip_norm)
