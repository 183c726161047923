"""docs/proofs/gradient.md, votes: at most k signs a unit, alone to the last bit."""

from __future__ import annotations

import math
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
from torch.nn import functional as F

from sfumato.errors import SfumatoError, UsageError
from sfumato.privacy import GradientQuery, TopSigns
from sfumato.privacy.answering import sampled
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.gradients import per_example
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    UnitBatch,
    fastest_engine,
    unit_gradients,
    units_are_independent,
    units_at_once,
)
from sfumato.privacy.gradients.sign_votes import VotingLoss, vote_sum
from sfumato.privacy.gradients.topagg import VOTE_BITS, add_votes, top_signs
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run

SURE = 1e-6
SIDE, CLASSES = 6, 3
PLAIN, DRAWN = TopSigns(12, stochastic=False), TopSigns(12)


class CrossEntropy:
    """Each unit's mean loss over K copies of its image, each with noise of its own."""

    def __init__(self, multiplicity: int = 1) -> None:
        self.multiplicity = multiplicity

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, self.multiplicity, generator=generator),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        x = images.float().repeat_interleave(self.multiplicity, dim=0) / 255
        y = labels.repeat_interleave(self.multiplicity)
        noisy = x + draws[0].flatten()[:, None, None, None]
        losses = F.cross_entropy(network(noisy), y, reduction="none")
        return losses.unflatten(0, (len(images), -1)).mean(dim=1)


class Scaled(CrossEntropy):
    """The network's first output times each unit's own draw: any gradient that a test wants."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(images.float() / 255)[:, 0] * draws[0][:, 0]


def made(kind: str = "conv") -> nn.Module:
    torch.manual_seed(1)
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, CLASSES),
    )


def units(count: int, loss: per_example.UnitLoss, seed: int = 0) -> UnitBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return UnitBatch(images, labels, loss.draws(count, generator))


def joined(*parts: UnitBatch) -> UnitBatch:
    return UnitBatch(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        tuple(torch.cat(draws) for draws in zip(*(part.draws for part in parts), strict=True)),
    )


def slow_vote(row: np.ndarray, k: int, uniform: np.ndarray | None = None) -> np.ndarray:
    """The vote of one gradient, entry by entry; plain signs unless each entry has its number."""
    vote = np.zeros(len(row))
    if np.isfinite(row).all():
        for place in sorted(range(len(row)), key=lambda place: -abs(row[place]))[:k]:
            vote[place] = np.sign(row[place])
            if uniform is not None and row[place]:
                chance = 0.5 + row[place] / (2 * np.abs(row).max())
                vote[place] = 1 if uniform[place] < chance else -1
    return vote


def vote(rows: Tensor, k: int, uniform: Tensor | None = None) -> np.ndarray:
    """One row's votes."""
    total = torch.zeros(rows.shape[1], dtype=torch.int64)
    add_votes(total, *top_signs(rows, k, uniform), k)
    return total.numpy() >> VOTE_BITS


def votes(
    network: nn.Module, loss: VotingLoss, batch: UnitBatch, compress: TopSigns, engine: str
) -> Tensor:
    """The sum of votes, float64."""
    steps = vote_sum(network, loss, batch, compress, engine)
    assert steps.dtype == torch.int64 and not (steps % 2**VOTE_BITS).any()
    return steps.double() / 2**VOTE_BITS


numbers = st.one_of(
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-45, 3e38, -3e38]),
)


@settings(max_examples=200)
@given(st.lists(numbers, min_size=1, max_size=9), st.data())
def test_a_vote_is_at_most_k_signs_whatever_the_gradient(values: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, len(values)))
    row = torch.tensor([values])
    drawn = torch.rand(1, k) if data.draw(st.booleans()) else None
    index, signs = top_signs(row, k, drawn)
    assert len(set(index[0].tolist())) == k
    found = vote(row, k, drawn)
    assert set(found) <= {-1, 0, 1} and np.linalg.norm(found) <= TopSigns(k).norm
    if not torch.isfinite(row).all():
        assert not signs.any()
    elif drawn is None:
        # Where magnitudes are equal any of them may be taken: compare what was.
        magnitudes = np.sort(np.abs(np.float32(values)))[::-1]
        assert sorted(np.abs(row[0, index[0]].numpy()))[::-1] == magnitudes[:k].tolist()
        assert np.array_equal(signs[0].numpy(), np.sign(row[0, index[0]].numpy()))


def test_a_vote_is_what_a_plain_loop_finds() -> None:
    rows = torch.randn(20, 50) ** 3
    for k in (1, 7, 50):
        expected = sum(slow_vote(row, k) for row in rows.numpy())
        assert np.array_equal(vote(rows, k), expected)
    assert not np.array_equal(vote(rows, 7), sum(slow_vote(row, 8) for row in rows.numpy()))
    for row in rows[:5]:  # the randomness of an entry is that of its place in the index
        uniform = torch.rand(1, 7)
        own = np.zeros(50)
        own[top_signs(row[None], 7)[0][0]] = uniform[0]
        assert np.array_equal(vote(row[None], 7, uniform), slow_vote(row.numpy(), 7, own))


def test_stochastic_signs_have_the_stated_chances() -> None:
    row, count = torch.tensor([4.0, -2.0, 1.0, 0.0, 0.5, -0.1]), 4000
    votes = vote(row.expand(count, -1), 4, torch.rand(count, 4))
    assert votes[0] == count and votes[3] == 0 and votes[5] == 0
    for place, value in ((1, -2.0), (2, 1.0), (4, 0.5)):
        ups = int((votes[place] + count) // 2)
        assert stats.binomtest(ups, count, 0.5 + value / 8).pvalue > SURE
        for wrong in (0.5 + value / 4, 0.5 - value / 8, 0.5 + value / 8 + 0.06):
            assert stats.binomtest(ups, count, min(wrong, 1)).pvalue < SURE


@pytest.mark.parametrize("compress", [PLAIN, DRAWN])
@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("multiplicity", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_every_way_adds_the_votes_of_a_plain_loop(
    kind: str, multiplicity: int, way: str, compress: TopSigns
) -> None:
    network, loss = made(kind), VotingLoss(CrossEntropy(multiplicity), compress)
    batch = units(7, loss)
    total = np.zeros(sum(p.numel() for p in network.parameters()))
    for unit in batch.split(1):
        value = loss(network, unit.images, unit.labels, *unit.draws).sum()
        parts = torch.autograd.grad(value, list(network.parameters()))
        row = torch.cat([per_example.flatten(part) for part in parts])
        uniform = None
        if compress.stochastic:
            uniform = np.zeros(len(row))
            uniform[top_signs(row[None], 12)[0][0]] = unit.draws[-1][0]
        total += slow_vote(row.numpy(), 12, uniform)
    found = votes(network, loss, batch, compress, way)
    assert found.dtype == torch.float64
    # The ways differ in their last bits, and so now and then in an entry.
    assert np.abs(found.numpy() - total).sum() <= 4
    assert np.abs(found.numpy()).sum() > 20
    fewer = votes(network, loss, batch.at(slice(6)), compress, way)
    assert np.abs(fewer.numpy() - total).sum() > 4


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("compress", [PLAIN, DRAWN])
@settings(max_examples=5)
@given(st.integers(0, 69), st.integers(0, 10_000), st.booleans())
def test_sensitivity(way: str, compress: TopSigns, place: int, seed: int, aligned: bool) -> None:
    """With and without a unit, and with another in its place; over two micro-batches."""
    network, loss, count = made("mlp"), VotingLoss(CrossEntropy(), compress), 70
    batch = units(count, loss, seed)
    if aligned:
        batch = batch.at(torch.zeros(count, dtype=torch.int64))
    whole = votes(network, loss, batch, compress, way)
    others = torch.cat([torch.arange(place), torch.arange(place + 1, count)])
    without = votes(network, loss, batch.at(others), compress, way)
    # Not a bit of the others has moved: the difference is the unit's own vote.
    assert 1 <= (whole - without).norm() <= compress.norm
    assert set((whole - without).tolist()) <= {-1.0, 0.0, 1.0}
    stranger = joined(batch.at(others), units(1, loss, seed + 1))
    moved = votes(network, loss, stranger, compress, way) - whole
    assert moved.norm() <= 2 * compress.norm


def test_the_bounds_are_reached() -> None:
    network, loss = made("mlp"), VotingLoss(Scaled(), PLAIN)
    unit = units(1, loss)
    sums = []
    for scale in (1.0, -1.0):
        batch = UnitBatch(unit.images, unit.labels, (torch.tensor([[scale]]), unit.draws[1]))
        sums.append(votes(network, loss, batch, PLAIN, "layers"))
    assert sums[0].norm() == pytest.approx(PLAIN.norm)
    assert (sums[0] - sums[1]).norm() == pytest.approx(2 * PLAIN.norm)


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("compress", [PLAIN, DRAWN])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
def test_a_unit_without_a_usable_gradient_adds_nothing(
    bad: float, compress: TopSigns, way: str
) -> None:
    network, loss = made("mlp"), VotingLoss(Scaled(), compress)
    batch = units(5, loss)
    scales = torch.tensor([1.0, bad, -2.0, 0.5, bad])[:, None]
    batch = UnitBatch(batch.images, batch.labels, (scales, batch.draws[1]))
    kept = votes(network, loss, batch.at(torch.tensor([0, 2, 3])), compress, way)
    assert torch.equal(votes(network, loss, batch, compress, way), kept) and kept.any()
    assert not votes(network, loss, batch.at(torch.tensor([1, 4])), compress, way).any()
    assert not votes(network, loss, batch.at(slice(0)), compress, way).any()


def test_every_pass_has_the_same_shape() -> None:
    seen = []
    network, loss = made(), VotingLoss(CrossEntropy(4), PLAIN)
    network.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    votes(network, loss, units(21, loss), PLAIN, "layers")
    assert seen == [64, 64] and units_at_once(loss) == 16


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("multiplicity", [1, 4, 100])
def test_units_are_alone_in_the_loop(kind: str, multiplicity: int) -> None:
    loss = VotingLoss(CrossEntropy(multiplicity), PLAIN)
    assert units_are_independent(made(kind), loss, units(16, loss), "loop")


def by_mates(batch: UnitBatch, rows: Tensor) -> Tensor:
    return rows + rows.mean(dim=0) * 1e-6


def by_place(batch: UnitBatch, rows: Tensor) -> Tensor:
    return rows * torch.linspace(1, 1 + 1e-6, len(rows))[:, None]


def by_count(batch: UnitBatch, rows: Tensor) -> Tensor:
    return rows * (1 + 1e-6 * bool(batch.images[40:].any()))


@pytest.mark.parametrize("leak", [by_mates, by_place, by_count])
def test_a_way_in_which_mates_show_is_not_taken(
    leak: Callable[[UnitBatch, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(network: nn.Module, loss: per_example.UnitLoss, batch: UnitBatch) -> Tensor:
        return leak(batch, per_example.by_layers(network, loss, batch))

    monkeypatch.setitem(ENGINES, "layers", leaking)
    network, loss = made("mlp"), VotingLoss(CrossEntropy(), PLAIN)
    public = units(16, loss)
    assert not units_are_independent(network, loss, public, "layers")
    assert units_are_independent(network, loss, public, "loop")
    assert fastest_engine(network, loss, public) != "layers"
    for name in ENGINES:
        monkeypatch.setitem(ENGINES, name, leaking)
    with pytest.raises(SfumatoError, match="same units"):
        fastest_engine(network, loss, public)


def test_lone_gradients_are_the_gradients() -> None:
    network, loss = made(), VotingLoss(CrossEntropy(), PLAIN)
    batch = units(5, loss)
    for way in ENGINES:
        rows = unit_gradients(network, loss, batch, way)
        assert torch.allclose(rows, ENGINES["loop"](network, loss, batch), rtol=1e-4, atol=1e-6)


class Pixels(CrossEntropy):
    """For small images in memory: the output is linear in the first two pixels."""

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(images[:, 0, 0].float() - 100)[:, 0]


def answering(
    query: GradientQuery, noise_std: float, source: Any, folder: Path, seed: int | None = None
) -> GradientAnswering:
    event = replace(query.event("add-or-remove-one"), noise_std=noise_std)
    run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), insecure_seed=seed)
    return GradientAnswering(query, event, run)


def asked(
    source: Any, folder: Path, query: GradientQuery, noise_std: float, seed: int = 0
) -> np.ndarray:
    """All answers of a query, ``[steps, 2]``."""
    steps = answering(query, noise_std, source, folder, seed)
    torch.manual_seed(0)
    network = nn.Linear(2, 1, bias=False)
    return np.array([steps.answer(i, network, Pixels()).numpy() for i in range(query.steps)])


def voting(k: int, stochastic: bool, rate: float, steps: int) -> GradientQuery:
    return GradientQuery("v", 2, None, rate, steps, compress=TopSigns(k, stochastic))


@pytest.fixture
def source(make_source: Callable, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))
    rng = np.random.default_rng(3)
    pixels = rng.integers((60, 90), 256, (40, 2)) // 2 * 2 + [0, 1]  # no two magnitudes are equal
    records = [(int(a + 256 * b), int(a) % 3) for a, b in pixels]
    return make_source([*records, (40_000, -1), (50_000, None)])


def gradients(source: Any) -> np.ndarray:
    usable = [value for value, label in source.records if label in (0, 1, 2)]
    return np.array([[v % 256 - 100, v // 256 - 100] for v in usable], dtype=np.float64)


@pytest.mark.parametrize("k", [1, 2])
def test_without_noise_the_answer_is_the_sum_of_the_votes(
    source: Any, tmp_path: Path, k: int
) -> None:
    truth = sum(slow_vote(row, k) for row in gradients(source))
    plain = asked(source, tmp_path / "plain", voting(k, False, 1.0, 1), 1e-9)
    assert plain[0] == pytest.approx(truth, abs=0.03)
    # Stochastic signs have the mean g / b, and each step draws them anew.
    steps = 60
    drawn = asked(source, tmp_path / "drawn", voting(k, True, 1.0, steps), 1e-9)
    scaled = [
        np.where(slow_vote(row, k) != 0, row, 0) / np.abs(row).max() for row in gradients(source)
    ]
    mean, error = np.sum(scaled, axis=0), np.sqrt(np.sum(1 - np.square(scaled), axis=0) / steps)
    assert (np.abs(drawn.mean(axis=0) - mean) <= 6 * error + 0.01).all()
    if k == 2:
        assert (np.abs(drawn.mean(axis=0) - truth) > 6 * error).any()
        assert len(np.unique(drawn, axis=0)) > 10
        again = asked(source, tmp_path / "again", voting(k, True, 1.0, 4), 1e-9)
        other = asked(source, tmp_path / "other", voting(k, True, 1.0, 4), 1e-9, seed=1)
        assert np.array_equal(again, drawn[:4])  # a killed step is computed with the same signs
        assert not np.array_equal(other, drawn[:4])


class Flat(Pixels):
    """A loss that does not depend on the network: nobody votes."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(labels)[:, 0] * 0


def test_noise_is_that_of_the_bound_on_every_coordinate(source: Any, tmp_path: Path) -> None:
    query = GradientQuery("v", 9000, None, 0.5, 1, compress=TopSigns(64))
    noise_std = 3 * query.event("add-or-remove-one").noise_std
    steps = answering(query, noise_std, source, tmp_path)
    drawn = steps.answer(0, nn.Embedding(9000, 1), Flat()).numpy() / (3 * 8.0)
    assert stats.kstest(drawn, "norm").pvalue > SURE
    for wrong in (1.2, 1 / 1.2):
        assert stats.kstest(drawn * wrong, "norm").pvalue < SURE


@pytest.mark.parametrize("k", [1, 7, 200])
def test_an_event_has_the_norm_of_a_vote(k: int) -> None:
    query = GradientQuery("g", 200, None, 0.05, 10, compress=TopSigns(k))
    event = query.event("replace-one")
    assert event.clip_norm == math.sqrt(k)
    assert event.sensitivity == {
        "add-or-remove-one": math.sqrt(k),
        "replace-one": 2 * math.sqrt(k),
    }
    assert event.noise_std == 2 * math.sqrt(k)
    stated = query.to_dict()
    assert stated["compress"] == {"entries": k, "stochastic": True}
    assert stated["clip_norm"] is None
    assert "compress" not in GradientQuery("g", 200, 1.0, 0.05, 10).to_dict()


def test_a_clip_norm_and_a_vote_exclude_each_other() -> None:
    for clip_norm, compress in ((1.0, TopSigns(3)), (None, None)):
        with pytest.raises(UsageError, match="exclude each other"):
            GradientQuery("g", 5, clip_norm, 0.1, 1, compress=compress)
    with pytest.raises(UsageError, match="entries=6"):
        GradientQuery("g", 5, None, 0.1, 1, compress=TopSigns(6))
    for entries in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            TopSigns(entries)
