"""What lies on a GPU has shapes that no record changes, so a full memory says nothing about one.

On a simulated GPU, which counts the bytes that are held there and how often the host waits for it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import SfumatoError
from sfumato.privacy import AggregateQuery, GradientQuery, HistogramQuery, SumQuery, TopSigns
from sfumato.privacy.answering import sampled
from sfumato.privacy.answering.aggregate import class_sums
from sfumato.privacy.answering.base import DeviceFullError, OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.answering.integer_sums import total
from sfumato.privacy.gradients import per_example
from sfumato.privacy.gradients.per_example import UnitBatch, gradient_sum
from sfumato.privacy.gradients.sign_votes import VotingLoss, vote_sum
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run


class Doubled:
    """A loss of two draws a unit."""

    multiplicity = 2

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(units, 2, generator=generator, device=generator.device),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        twice = (images.flatten(1).float() / 255).repeat_interleave(2, dim=0)
        return (network(twice).square().sum(dim=1).view(-1, 2) * draws[0]).mean(dim=1)


class Features(Doubled):
    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        return network(images.flatten(1).float() / 255) * draws[0][:, :1]


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))


def sample(units: int, strange: bool) -> UnitBatch:
    """A sample of so many units, in classes as they come; a strange one's gradient is no number."""
    generator = torch.Generator().manual_seed(units)
    images = torch.randint(256, (units, 1, 3, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (units,), generator=generator)
    draws = VotingLoss(Doubled(), TopSigns(4)).draws(units, generator)
    if strange:
        draws[0][0] = float("nan")
    return UnitBatch(images, labels, draws)


def gradients(network: nn.Module, batch: UnitBatch, engine: str) -> Tensor:
    return gradient_sum(network, VotingLoss(Doubled(), TopSigns(4)), batch, 1.0, engine, 32)


def votes(network: nn.Module, batch: UnitBatch, engine: str) -> Tensor:
    compress = TopSigns(4)
    return vote_sum(network, VotingLoss(Doubled(), compress), batch, compress, engine, 32)


def by_class(network: nn.Module, batch: UnitBatch, engine: str) -> Tensor:
    query = AggregateQuery("a", 3, 3, 0.5, 1.0, 2, 1.0, 8, 1.0, 2.0)
    return class_sums(network, Features(), batch, query, 16)


@pytest.mark.parametrize(
    ("sum_of", "engine"),
    [(gradients, "layers"), (gradients, "loop"), (votes, "layers"), (by_class, "-")],
)
def test_a_step_takes_the_same_memory_whatever_is_sampled_and_the_host_never_waits(
    sum_of: Callable[[nn.Module, UnitBatch, str], Tensor], engine: str, fake_gpu: ModuleType
) -> None:
    network, seen = made(), set()
    for units, strange in ((1, False), (3, True), (16, False), (17, True), (40, False)):
        batch = sample(units, strange)
        expected = sum_of(network, batch, engine)
        with fake_gpu.fake_gpu() as gpu:
            there, memory = copy.deepcopy(network).to(gpu), fake_gpu.memory
            memory.most, waited, before = memory.now, memory.waits, memory.now
            found = sum_of(there, batch, engine)
            seen.add(memory.most - before)
            assert memory.waits == waited
            assert torch.equal(found.cpu(), expected)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["sum", "histogram"])
def test_a_pass_takes_the_same_memory_whatever_the_data(
    kind: str, make_source: Callable, fake_gpu: ModuleType
) -> None:
    def first_pixels(images: Tensor, labels: Tensor) -> Tensor:
        rows = images[:, 0, 0].float() / 255
        return torch.where(images[:, 0, 0, :1] == 255, float("nan"), rows)

    def bin_of(images: Tensor, labels: Tensor) -> Tensor:
        return images[:, 0, 0, 0] // 64

    query = {
        "sum": SumQuery("q", first_pixels, 2, 1.0, by_class=True),
        "histogram": HistogramQuery("q", bin_of, 4),
    }[kind]
    seen = set()
    for count in (1, 3, 16, 17, 40):
        source = make_source([(255 if n == 2 else 7 * n, n % 3) for n in range(count)])
        expected = total(query, source, 16, lambda share: None)
        with fake_gpu.fake_gpu() as gpu:
            memory = fake_gpu.memory
            memory.most = before = memory.now
            found = total(query, source, 16, lambda share: None, device=gpu)
            seen.add(memory.most - before)
        assert torch.equal(found, expected)
    assert len(seen) == 1


def test_an_engine_has_the_micro_batch_that_public_units_leave_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true, loss = per_example.filled_gradients, Doubled()
    monkeypatch.setattr(per_example, "images_at_once", lambda *_: 512)

    def fastest(network, loss, public, *images):
        part = public.split(per_example.units_at_once(loss, images[-1]))[0]
        per_example.unit_gradients(network, loss, part, "layers", images[-1])
        return "layers"

    monkeypatch.setattr(per_example, "fastest_engine", fastest)
    monkeypatch.setattr(per_example, "units_are_independent", lambda *all: bool(fastest(*all)))

    def room(units: int) -> None:
        def rows(network, loss, part, engine, images=None):
            if (images or per_example.IMAGES_AT_ONCE) > units:
                raise torch.OutOfMemoryError("12345 bytes")
            return true(network, loss, part, engine, images)

        monkeypatch.setattr(per_example, "filled_gradients", rows)

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 1, 3, 3), generator=generator, dtype=torch.uint8)
    public = UnitBatch(images, torch.zeros(64, dtype=torch.int64), loss.draws(64, generator))
    for units, expected in ((10_000, 512), (300, 256), (64, 64), (63, 32), (1, 1)):
        room(units)
        assert per_example.engine_that_fits(made(), loss, public) == ("layers", expected)
    room(0)
    with pytest.raises(SfumatoError, match="too little memory for one image"):
        per_example.engine_that_fits(made(), loss, public)


def test_a_step_that_does_not_fit_is_begun_anew_with_half_to_the_same_answer(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    source = make_source([(7 * n, n % 3) for n in range(60)])
    query = GradientQuery("g", 4, clip_norm=0.5, sampling_rate=0.5, steps=2)
    network, true = nn.Linear(4, 1, bias=False), per_example.filled_gradients

    def answers(folder: Path, room: int) -> list[Tensor]:
        def rows(network, loss, part, engine, images=None):
            if images > room:
                raise torch.OutOfMemoryError(f"{len(part)} units of a sample")
            return true(network, loss, part, engine, images)

        monkeypatch.setattr(per_example, "filled_gradients", rows)
        monkeypatch.setattr(sampled, "engine_that_fits", lambda *all: ("loop", min(64, all[-1])))
        event = query.event("add-or-remove-one")
        run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), False, insecure_seed=3)
        asked = GradientAnswering(query, replace(event, noise_std=1e-9), run)
        return [asked.answer(step, network, Doubled()) for step in range(2)]

    expected = answers(tmp_path / "roomy", 64)
    assert "memory" not in capsys.readouterr().err
    for found, known in zip(answers(tmp_path / "tight", 16), expected, strict=True):
        assert torch.equal(found, known) and known.any()
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert lines == [
        f"the device's memory is full: going on with at most {size} images at once"
        for size in (32, 16)
    ]
    with pytest.raises(SfumatoError, match="query 'g': the device has too little memory"):
        answers(tmp_path / "none", 0)


def test_a_full_memory_is_told_without_what_the_device_says() -> None:
    assert "12345" not in str(DeviceFullError()) and "run the same command again" in str(
        DeviceFullError()
    )
