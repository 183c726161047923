"""docs/proofs/gradient.md: what a unit adds is its own, bounded, and the same by three engines."""

from __future__ import annotations

import math
from collections.abc import Callable

import opacus
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import SfumatoError
from sfumato.networks import UNet, adapt
from sfumato.privacy.clipping import MARGIN, STRETCH, STRETCH_ERROR, clipped_sum, row_norms
from sfumato.privacy.gradients import per_example
from sfumato.privacy.gradients.layers import flatten, is_supported, unflatten
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    UnitBatch,
    by_layers,
    fastest_engine,
    gradient_sum,
    trained,
    units_at_once,
)
from sfumato.privacy.grid import UNIT

SIDE, CLASSES = 6, 3


class Noisy:
    """Each unit's mean loss over K copies of its image, each with noise of its own."""

    def __init__(self, multiplicity: int = 1) -> None:
        self.multiplicity = multiplicity

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, self.multiplicity, generator=generator, device=generator.device),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        levels = draws[0].flatten()
        x = images.float().repeat_interleave(self.multiplicity, dim=0) / 255
        y = labels.repeat_interleave(self.multiplicity)
        return image_losses(network, x, y, levels).unflatten(0, (len(images), -1)).mean(dim=1)


def image_losses(network: nn.Module, x: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    noisy = x + levels[:, None, None, None]
    if isinstance(network, UNet):
        return (network(noisy, levels, y) - x).square().mean(dim=(1, 2, 3))
    return F.cross_entropy(network(noisy), y, reduction="none")


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, 8), nn.Tanh(), nn.Linear(8, CLASSES, bias=False)
    )


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.SiLU(),
        nn.Conv2d(6, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def unet() -> nn.Module:
    return UNet(SIDE, 1, CLASSES, width=8, multipliers=(1, 2), blocks=1, attention=3)


def adapted_unet() -> nn.Module:
    network = unet()
    adapt(network, 2, seed=0)
    network.label.requires_grad_(True)
    return network


NETWORKS = {"mlp": mlp, "conv": conv_net, "unet": unet, "unet, adapters": adapted_unet}


def made(network: Callable[[], nn.Module] | str) -> nn.Module:
    """The network with random weights everywhere, also where it would start at zero."""
    torch.manual_seed(1)
    result = NETWORKS[network]() if isinstance(network, str) else network()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(
                torch.randn(parameter.shape) * (0.3 if isinstance(result, UNet) else 0.9)
            )
    return result


def units(count: int, loss: Noisy, seed: int = 0) -> UnitBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return UnitBatch(images, labels, loss.draws(count, generator))


def chosen(batch: UnitBatch, index: Tensor) -> UnitBatch:
    return UnitBatch(batch.images[index], batch.labels[index], tuple(d[index] for d in batch.draws))


def one_by_one(network: nn.Module, batch: UnitBatch) -> Tensor:
    """Gradients of the units, float64, by one backward pass an image."""
    rows = []
    for image, label, levels in zip(batch.images, batch.labels, batch.draws[0], strict=True):
        row = torch.zeros(sum(p.numel() for p in trained(network)), dtype=torch.float64)
        for level in levels:
            network.zero_grad()
            value = image_losses(network, image[None] / 255, label[None], level[None])
            value.sum().backward()
            row += torch.cat([p.grad.flatten() for p in trained(network)]).double() / len(levels)
        rows.append(row)
    return torch.stack(rows)


def clipped(
    network: nn.Module, loss: per_example.UnitLoss, batch: UnitBatch, clip_norm: float, engine: str
) -> Tensor:
    """The sum of clipped gradients in the gradients' units, float64."""
    steps = gradient_sum(network, loss, batch, clip_norm, engine)
    assert steps.dtype == torch.int64
    return steps.double() * (clip_norm / UNIT)


def plain(flat: Tensor, network: nn.Module) -> Tensor:
    """A flat gradient in the order of PyTorch's own ``flatten``."""
    return torch.cat([part.flatten() for part in unflatten(flat, trained(network))])


def bounded(rows: Tensor, clip_norm: float) -> Tensor:
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for row in rows:
        total += row * min(1.0, clip_norm / float(row.norm()))
    return total * (1 - MARGIN) * (1 - math.sqrt(rows.shape[1]) / 2 / UNIT)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("multiplicity", [1, 2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_is_the_plain_loop(name: str, multiplicity: int, way: str) -> None:
    network, loss = made(name), Noisy(multiplicity)
    batch = units(5, loss)
    rows = one_by_one(network, batch)
    clip_norm = float(rows.norm(dim=1).median())  # some are clipped, some are not
    found = clipped(network, loss, batch, clip_norm, way)
    assert found.dtype == torch.float64
    assert apart(plain(found, network), bounded(rows, clip_norm)) < 1e-4
    # It would notice a clip that is left out.
    assert apart(rows.sum(dim=0), bounded(rows, clip_norm)) > 1e-2


@pytest.mark.parametrize("way", ENGINES)
def test_noise_multiplicity_is_averaged_inside_the_clip(way: str) -> None:
    network, loss = made("mlp"), Noisy(4)
    batch = units(4, loss)
    rows = one_by_one(network, batch)
    small = 0.5 * float(rows.norm(dim=1).min())
    found = clipped(network, loss, batch, small, way)
    assert apart(found, bounded(rows, small)) < 1e-4
    each_image = UnitBatch(
        batch.images.repeat_interleave(4, dim=0),
        batch.labels.repeat_interleave(4),
        (batch.draws[0].reshape(16, 1),),
    )
    assert apart(found, clipped(network, Noisy(1), each_image, small, way) / 4) > 1e-3


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_sum_depends_neither_on_micro_batches_nor_on_order(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, loss = made(name), Noisy(2)
    batch = units(9, loss)
    whole = clipped(network, loss, batch, 0.5, way)
    for images in (1, 2, 5, 7):
        monkeypatch.setattr(per_example, "IMAGES_AT_ONCE", images)
        assert units_at_once(loss) == max(1, images // 2)
        assert apart(clipped(network, loss, batch, 0.5, way), whole) < 1e-5
    whole = clipped(network, loss, batch, 0.5, way)
    shuffled = chosen(batch, torch.randperm(9))
    # vmap's rows may know their place; then it is not taken where public units show it.
    near = 1e-6 if way == "vmap" else 0.0
    assert apart(clipped(network, loss, shuffled, 0.5, way), whole) <= near
    assert apart(clipped(network, loss, chosen(batch, torch.arange(8)), 0.5, way), whole) > 1e-3


@pytest.mark.parametrize("dimension", [5, 5000])
def test_for_given_rows_the_sum_is_the_same_for_any_split_and_order(dimension: int) -> None:
    generator = torch.Generator().manual_seed(dimension)
    rows = torch.randn(70, dimension, generator=generator) * torch.rand(70, 1, generator=generator)
    whole = clipped_sum(rows, 0.5)
    for size in (1, 3, 16, 17, 70):
        shuffled = rows[torch.randperm(70, generator=generator)]
        parts = sum(clipped_sum(part, 0.5) for part in shuffled.split(size))
        assert torch.equal(parts, whole)
    assert not torch.equal(whole, clipped_sum(rows[:-1], 0.5))


def test_no_more_images_than_allowed_go_through_the_network_at_once() -> None:
    seen = []
    network = made("mlp")
    network.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    clipped(network, Noisy(4), units(40, Noisy(4)), 1.0, "layers")
    assert seen == [64, 64, 64]


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("multiplicity", [1, 3])
def test_layers_agree_with_opacus(name: str, multiplicity: int) -> None:
    network, loss = made(name), Noisy(multiplicity)
    batch = units(6, loss)
    ours = by_layers(network, loss, batch)
    wrapped = opacus.GradSampleModule(network, loss_reduction="sum")
    x = batch.images.float().repeat_interleave(multiplicity, dim=0) / 255
    y = batch.labels.repeat_interleave(multiplicity)
    noisy = x + batch.draws[0].reshape(-1, 1, 1, 1)
    F.cross_entropy(wrapped(noisy), y, reduction="sum").backward()
    theirs = torch.cat(
        [p.grad_sample.unflatten(0, (6, -1)).mean(dim=1).flatten(1) for p in wrapped.parameters()],
        dim=1,
    )
    wrapped.to_standard_module()
    ours = torch.stack([plain(row, network) for row in ours])
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


class Scaled:
    """The network's output times each unit's own draw: any gradient that a test wants."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.ones(units),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(images.float() / 255).flatten(1).sum(dim=1) * draws[0]


def scaled_batch(scales: list[float], seed: int = 0) -> UnitBatch:
    batch = units(len(scales), Noisy(), seed)
    return UnitBatch(batch.images, batch.labels, (torch.tensor(scales),))


extreme = st.one_of(
    st.floats(-1e30, 1e30),
    st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e-45, 1e30, 3e38, -3e38]),
)


@settings(max_examples=60)
@given(st.lists(extreme, min_size=1, max_size=4), st.floats(1e-3, 1e3), st.sampled_from([*ENGINES]))
def test_a_unit_adds_at_most_the_clip_norm_whatever_its_loss(
    scales: list[float], clip_norm: float, way: str
) -> None:
    network, batch = made("mlp"), scaled_batch(scales)
    each = [
        clipped(network, Scaled(), part, clip_norm, way).norm().item() for part in batch.split(1)
    ]
    assert all(norm <= clip_norm for norm in each)  # False for a NaN
    for scale, norm in zip(scales, each, strict=True):
        if scale == 0 or not math.isfinite(scale):
            assert norm == 0
        elif 1e5 < abs(scale) <= 1e15:  # larger ones may add nothing
            assert norm == pytest.approx(clip_norm, rel=1e-3)
    together = clipped(network, Scaled(), batch, clip_norm, way)
    assert together.norm() <= sum(each) * (1 + 1e-5)


class Ones(Scaled):
    """A gradient that is the unit's own draw in every coordinate."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(torch.ones(len(images), network.in_features))[:, 0] * draws[0]


@pytest.mark.parametrize("clip_norm", [1.05e-6, 1.0])
@pytest.mark.parametrize("dimension", [16, 2**16 + 1])
@pytest.mark.parametrize("scale", [1e10, 1.3e16, 1e17, 1e18, 1e19, 2e38, 2.5e38, 3e38, 3.3e38])
def test_a_giant_gradient_is_bounded_too(scale: float, dimension: int, clip_norm: float) -> None:
    # C over a norm near float32's largest would be a denormal float32 of a few bits.
    network = nn.Linear(dimension, 1, bias=False)
    found = clipped(network, Ones(), scaled_batch([scale]), clip_norm, "loop")
    assert found.norm().item() <= clip_norm


@pytest.mark.parametrize("dimension", [1000, STRETCH, 320 * STRETCH + 17])
@pytest.mark.parametrize("scale", [0.1, 1 / 3, 0.7, 1.1])
def test_many_equal_coordinates_do_not_pass_the_bound(dimension: int, scale: float) -> None:
    # Every addition of equal squares may be rounded the same way.
    rows = torch.full((2, dimension), scale)
    exact = float(rows[0, 0]) * math.sqrt(dimension)
    assert row_norms(rows).tolist() == pytest.approx([exact, exact], rel=STRETCH_ERROR)
    network = nn.Linear(dimension, 1, bias=False)
    found = clipped(network, Ones(), scaled_batch([scale]), 1.0, "loop")
    assert 1 - 2 * MARGIN <= found.norm() * (1 + dimension**0.5 / UNIT) and found.norm() <= 1


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_units_nan_does_not_spoil_the_others(name: str, bad: float, way: str) -> None:
    network = made(name)
    batch = scaled_batch([1.0, bad, -2.0, 0.5])
    rest = chosen(batch, torch.tensor([0, 2, 3]))
    spoiled = clipped(network, Scaled(), batch, 0.7, way)
    assert torch.isfinite(spoiled).all()
    assert apart(spoiled, clipped(network, Scaled(), rest, 0.7, way)) == 0


@pytest.mark.parametrize("way", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_units_add_zeros(name: str, way: str) -> None:
    network = made(name)
    found = clipped(network, Noisy(2), units(0, Noisy(2)), 1.0, way)
    assert found.dtype == torch.float64
    assert found.shape == (sum(p.numel() for p in trained(network)),)
    assert not found.any()


@pytest.mark.parametrize("way", ENGINES)
@settings(max_examples=12)
@given(st.integers(0, 69), st.integers(0, 10_000), st.booleans())
def test_sensitivity(way: str, place: int, seed: int, aligned: bool) -> None:
    """With and without a unit, and with another in its place; over two micro-batches."""
    network, clip_norm, count = made("mlp"), 0.01, 70
    loss = Noisy()
    batch = units(count, loss, seed)
    if aligned:  # all contributions in one direction: the largest sums
        batch = chosen(batch, torch.zeros(count, dtype=torch.int64))
    whole = clipped(network, loss, batch, clip_norm, way)
    without = chosen(batch, torch.cat([torch.arange(place), torch.arange(place + 1, count)]))
    moved = (clipped(network, loss, without, clip_norm, way) - whole).norm()
    assert 0.9 * clip_norm < moved <= clip_norm
    stranger = units(1, loss, seed + 1)
    images = torch.cat([without.images, stranger.images])
    labels = torch.cat([without.labels, stranger.labels])
    replaced = UnitBatch(images, labels, (torch.cat([without.draws[0], stranger.draws[0]]),))
    moved = (clipped(network, loss, replaced, clip_norm, way) - whole).norm()
    assert moved <= 2 * clip_norm


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE**2, 4)
        self.again = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.enter(x.flatten(1))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE**2, 4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.enter(x.flatten(1))))


class Bypassed(nn.Module):
    """A layer whose weight is used, but not by calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(SIDE**2, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.enter(x.flatten(1)), self.out.weight, self.out.bias)


def circular() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.Flatten())


def padded_same() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.Flatten())


def test_a_layer_that_runs_twice_is_refused_and_not_chosen() -> None:
    network, loss, batch = made(Twice), Noisy(), units(8, Noisy())
    with pytest.raises(RuntimeError, match="Linear runs twice"):
        by_layers(network, loss, batch)
    assert not any(layer._forward_hooks for layer in network.modules())
    assert fastest_engine(network, loss, batch) in ("loop", "vmap")


@pytest.mark.parametrize("network", [Twice, Tied, Bypassed, circular, padded_same])
def test_the_fastest_way_is_a_right_one(network: Callable[[], nn.Module]) -> None:
    model, loss, batch = made(network), Noisy(), units(8, Noisy())
    way = fastest_engine(model, loss, batch)
    rows = one_by_one(model, batch)
    found = plain(clipped(model, loss, batch, 30.0, way), model)
    assert apart(found, bounded(rows, 30.0)) < 1e-4


@pytest.mark.parametrize("slow", ["loop", "vmap", "layers"])
def test_the_fastest_is_measured(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def timed(name: str, way: per_example.Engine) -> per_example.Engine:
        def run(network: nn.Module, loss: per_example.UnitLoss, batch: UnitBatch) -> Tensor:
            clock[0] += 1.0 if name == slow else 2.0
            return way(network, loss, batch)

        return run

    clocked = {name: timed(name, engine) for name, engine in ENGINES.items()}
    monkeypatch.setattr(per_example, "ENGINES", clocked)
    monkeypatch.setattr(per_example.time, "perf_counter", lambda: clock[0])
    assert fastest_engine(made("mlp"), Noisy(), units(8, Noisy())) == slow


def test_a_way_that_disagrees_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: nn.Module, loss: per_example.UnitLoss, batch: UnitBatch) -> Tensor:
        return ENGINES["layers"](network, loss, batch) * 1.02

    ways = {"loop": ENGINES["loop"], "layers": wrong}
    monkeypatch.setattr(per_example, "ENGINES", ways)
    assert fastest_engine(made("mlp"), Noisy(), units(8, Noisy())) == "loop"


def test_a_loss_that_draws_by_itself_is_refused() -> None:
    class Hidden(Noisy):
        def __call__(
            self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
        ) -> Tensor:
            return super().__call__(network, images, labels, torch.rand_like(draws[0]) * 9)

    with pytest.raises(SfumatoError, match="draws"):
        fastest_engine(made("mlp"), Hidden(), units(8, Noisy()))


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.LayerNorm(4), nn.ConvTranspose2d(1, 1, 3), nn.Conv1d(1, 1, 3)]
)
def test_a_layer_without_a_rule_is_not_supported(layer: nn.Module) -> None:
    assert is_supported(made("conv")) and is_supported(made("unet"))
    assert not is_supported(nn.Sequential(made("conv"), layer))

    class Own(nn.Linear):  # may compute anything
        pass

    assert not is_supported(nn.Sequential(Own(2, 2)))


def test_batch_normalisation_goes_by_the_loop_where_units_are_alone() -> None:
    network = made(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, CLASSES)
        )
    )
    batch = units(8, Noisy())
    assert fastest_engine(network, Noisy(), batch) == "loop"
    alone = sum(clipped(network, Noisy(), part, 1.0, "loop") for part in batch.split(1))
    assert apart(clipped(network, Noisy(), batch, 1.0, "loop"), alone) == 0


def test_a_layer_that_is_trained_in_part_has_no_rule() -> None:
    network = made("conv")
    network[0].bias.requires_grad_(False)
    assert not is_supported(network)


@pytest.mark.parametrize("frozen", [0, 3, 9])
def test_frozen_parameters_are_left_out(frozen: int) -> None:
    network = made("conv")
    network[frozen].requires_grad_(False)
    batch = units(5, Noisy())
    rows = one_by_one(network, batch)
    clip_norm = float(rows.norm(dim=1).median())
    expected = bounded(rows, clip_norm)
    assert 0 < len(expected) < sum(p.numel() for p in network.parameters())
    assert is_supported(network)
    for way in ("loop", "vmap", "layers", fastest_engine(network, Noisy(), batch)):
        found = clipped(network, Noisy(), batch, clip_norm, way)
        assert apart(plain(found, network), expected) < 1e-4


@pytest.mark.parametrize("way", ENGINES)
def test_a_parameter_without_influence_has_gradient_zero(way: str) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(SIDE**2, CLASSES), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x.flatten(1))

    network, batch = made(Spare), units(4, Noisy())
    if way == "loop":  # autograd refuses; no way may answer with something else
        with pytest.raises(RuntimeError):
            clipped(network, Noisy(), batch, 1.0, way)
        return
    found = clipped(network, Noisy(), batch, 1.0, way)
    assert not found[-12:].any() and found[:-12].any()


def test_the_network_is_left_as_it_was() -> None:
    network, batch = made("conv"), units(4, Noisy())
    before = [p.clone() for p in network.parameters()]
    for way in ENGINES:
        clipped(network, Noisy(), batch, 1.0, way)
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_flat_gradient_goes_back_to_its_parameters() -> None:
    parameters = trained(made("unet"))
    flat = torch.cat([flatten(p) for p in parameters])
    parts = unflatten(flat, parameters)
    assert all(torch.equal(part, p) for part, p in zip(parts, parameters, strict=True))
    assert not torch.equal(flat, torch.cat([p.flatten() for p in parameters]))
