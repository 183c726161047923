"""DP-GAN: what a pair's loss is, who moves when, and what the generator is paid for."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from sfumato.choosing import make_method
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import DPGAN
from sfumato.methods.dpgan.adversarial_training import AdversarialTraining, PairLoss, Rates
from sfumato.methods.training import Session
from sfumato.networks import Discriminator, Generator
from sfumato.privacy.gradients.per_example import UnitBatch, unit_gradients

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)


@pytest.fixture
def players():
    torch.manual_seed(0)
    return PairLoss(Generator(28, 1, 3, 4, latent=8), bfloat16=False), Discriminator(28, 1, 3, 4)


@pytest.fixture
def units():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.tensor([0, 1, 2, 0]), torch.randn(4, 8, generator=generator)


def test_a_units_loss_judges_its_image_and_one_generated_for_its_class(players, units):
    loss, discriminator = players
    images, labels, z = units
    with torch.no_grad():
        ours = loss(discriminator, images, labels, z)
        real = discriminator(images / 127.5 - 1, labels)
        fake = discriminator(loss.generator(z, labels), labels)
    torch.testing.assert_close(ours, F.softplus(-real) + F.softplus(fake))


def test_what_both_images_have_in_common_cancels_before_the_clip(players, units):
    loss, discriminator = players
    _, labels, z = units
    with torch.no_grad():
        images = ((loss.generator(z, labels) + 1) * 127.5).round().to(torch.uint8)
        discriminator.score.bias.fill_(0.0)
        for weights in (discriminator.score.weight, discriminator.label.weight):
            weights.mul_(0.01)

    def norm(z):
        return float(
            unit_gradients(discriminator, loss, UnitBatch(images, labels, (z,)), "loop")
            .sum(0)
            .norm()
        )

    assert norm(z) < 0.02 * norm(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))


def test_draws_are_independent_from_unit_to_unit(players):
    loss, _ = players
    (z,) = loss.draws(3000, torch.Generator().manual_seed(0))
    assert z.shape == (3000, 8)
    assert abs(np.corrcoef(z[:-1].flatten(), z[1:].flatten())[0, 1]) < 0.03  # 4.6 deviations


def training(players, critic_steps=2, diversity=0.0, penalty=0.0):
    loss, discriminator = players
    rates = Rates(5e-3, 5e-3, critic_steps, 0.9, diversity, penalty)
    return AdversarialTraining(Session(quiet=True), loss, discriminator, rates, 0)


def test_the_generator_moves_after_so_many_discriminator_steps(players):
    loss, discriminator = players
    seen = []

    def state(network):
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    def gradient(step):
        seen.append((state(discriminator), state(loss.generator)))
        return [torch.ones_like(p) for p in discriminator.parameters()]

    training(players, critic_steps=3).run(7, gradient)
    pairs = list(pairwise(seen))
    assert all(bool((a[0] != b[0]).all()) for a, b in pairs)
    assert [not torch.equal(a[1], b[1]) for a, b in pairs] == [False, False, True] * 2


def test_training_teaches_the_generator_its_classes(players):
    loss, discriminator = players
    generator = torch.Generator().manual_seed(0)

    def gradient(step):
        labels = torch.randint(3, (64,), generator=generator)
        shades = torch.tensor([20, 128, 235], dtype=torch.uint8)
        images = shades[labels][:, None, None, None].expand(-1, 1, 28, 28)
        losses = loss(discriminator, images, labels, *loss.draws(64, generator))
        return torch.autograd.grad(losses.mean(), list(discriminator.parameters()))

    made = training(players, 1).run(30, gradient)
    labels = torch.arange(3).repeat_interleave(20)
    with torch.no_grad():
        images = made(torch.randn(60, 8), labels)
    dark, grey, bright = images.reshape(3, -1).mean(dim=1).tolist()
    assert dark < -0.25 and dark + 0.2 < grey < bright - 0.2 and bright > 0.25


def test_diversity_keeps_images_of_a_class_apart(players):
    start = copy.deepcopy(players)

    def nothing(step):
        return [torch.zeros_like(p) for p in players[1].parameters()]

    def spread(weight):
        players[0].generator.load_state_dict(start[0].generator.state_dict())
        made = training(players, 1, weight).run(15, nothing)
        z = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(made(z, torch.zeros(20, dtype=torch.int64)).std(dim=0).mean())

    assert spread(0.5) > 1.3 * spread(0.0)


def slopes(players):
    """Mean of |∇ₓ D(G(z, y), y)|² over the images that the penalty draws, in float64."""
    loss, discriminator = players
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (64,), generator=generator)
    with torch.no_grad():
        images = loss.generator(*loss.draws(64, generator), labels).double()
    exact = copy.deepcopy(discriminator).double()
    slope = vmap(grad(lambda image, label: exact(image[None], label[None])[0]))(images, labels)
    return float(slope.detach().square().sum(dim=(1, 2, 3)).mean())


def test_the_penalty_is_the_slope_at_generated_images(players):
    _, discriminator = players
    gradient = training(players, penalty=2.0).penalty_gradient()
    assert [g.shape for g in gradient] == [p.shape for p in discriminator.parameters()]
    (largest,) = (g for g in gradient if g is max(gradient, key=lambda g: float(g.norm())))
    (parameter,) = (
        p for p, g in zip(discriminator.parameters(), gradient, strict=True) if g is largest
    )
    move, start = 1e-4 * largest / largest.norm(), parameter.detach().clone()
    values = []
    for sign in (1, -1):
        parameter.data = start + sign * move
        values.append(slopes(players))
    parameter.data = start
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(largest.norm()) / 2, rel=1e-2)


def test_a_penalised_discriminator_grows_flat(players):
    def nothing(step):
        return [torch.zeros_like(p) for p in players[1].parameters()]

    before = slopes(players)
    training(players, 5, penalty=0.0).run(4, nothing)
    assert slopes(players) == before
    training(players, 5, penalty=1.0).run(4, nothing)
    assert slopes(players) < 0.9 * before


@pytest.mark.parametrize(
    ("changes", "spec", "problem"),
    [({}, PublicSpec(28, 28, 1, ()), "declared"), ({"batch": 1001}, SPEC, "must not exceed")],
)
def test_a_plan_without_a_public_rate_is_refused(small_dpgan, changes, spec, problem):
    with pytest.raises(UsageError, match=f"dpgan.*{problem}"):
        small_dpgan(**changes).queries(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"critic_steps": 4, "steps": 3},
        {"generator_width": 6},
        {"average": 1.0},
        {"diversity": -1.0},
        {"penalty": -1.0},
    ],
)
def test_a_value_outside_its_rule_is_refused(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        DPGAN(**changes)


def test_the_preset_fits_small_data_sets():
    assert make_method("dpgan", SPEC, preset="cpu").batch <= 1000
    assert make_method("dpgan", PublicSpec(28, 28, 1, (), 50), preset="cpu").batch == 50
    with pytest.raises(UsageError, match="preset='paper'"):
        make_method("dpgan", SPEC, preset="paper")


def test_configuration_is_json_and_makes_the_same_method(small_dpgan):
    assert DPGAN(**json.loads(json.dumps(small_dpgan().config()))) == small_dpgan()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_colour_and_larger_images_have_a_plan(small_dpgan, size):
    spec = PublicSpec(size, size, 3, ("a", "b"), declared_size=1000)
    (query,) = small_dpgan().queries(spec)
    network = Discriminator(size, 3, 2, 4)
    assert query.dimension == sum(p.numel() for p in network.parameters())
    assert "hours" in small_dpgan().estimate(spec)["training_time"]
