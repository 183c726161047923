"""DP-GAN: what a pair's loss is, who moves when, and training that goes on where it was."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import DPGAN
from sfumato.methods.dpgan.adversarial_training import Game, PairLoss, Rates
from sfumato.networks import Discriminator, Generator
from sfumato.privacy import Budget, Curator
from sfumato.privacy.gradients.per_example import UnitBatch, unit_gradients
from sfumato.synthesis import make_method

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)
BUDGET = Budget(epsilon=10.0, delta=1e-5)


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


def game(players, folder, critic_steps=2, diversity=0.0, penalty=0.0):
    loss, discriminator = players
    rates = Rates(5e-3, 5e-3, critic_steps, 0.9, diversity, penalty)
    return Game(loss, discriminator, rates, 0, folder, True)


def test_the_generator_moves_after_so_many_discriminator_steps(players, tmp_path):
    loss, discriminator = players
    seen = []

    def state(network):
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    def gradient(step, _):
        seen.append((state(discriminator), state(loss.generator)))
        return [torch.ones_like(p) for p in discriminator.parameters()]

    game(players, tmp_path, critic_steps=3).play("training", 7, gradient)
    pairs = list(pairwise(seen))
    assert all(bool((a[0] != b[0]).all()) for a, b in pairs)
    assert [not torch.equal(a[1], b[1]) for a, b in pairs] == [False, False, True] * 2


def test_playing_teaches_the_generator_its_classes(players, tmp_path):
    def draw(count, generator):
        labels = torch.randint(3, (count,), generator=generator)
        shades = torch.tensor([20, 128, 235], dtype=torch.uint8)
        return shades[labels][:, None, None, None].expand(-1, 1, 28, 28), labels

    generator = game(players, tmp_path, 1).plainly("warming up", 30, draw)
    labels = torch.arange(3).repeat_interleave(20)
    with torch.no_grad():
        images = generator(torch.randn(60, 8), labels)
    dark, grey, bright = images.reshape(3, -1).mean(dim=1).tolist()
    assert dark < -0.25 and dark + 0.2 < grey < bright - 0.2 and bright > 0.25


def test_diversity_keeps_images_of_a_class_apart(players, tmp_path):
    start = copy.deepcopy(players)

    def nothing(step, _):
        return [torch.zeros_like(p) for p in players[1].parameters()]

    def spread(name, weight):
        players[0].generator.load_state_dict(start[0].generator.state_dict())
        (tmp_path / name).mkdir()
        made = game(players, tmp_path / name, 1, weight).play("training", 15, nothing)
        z = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float(made(z, torch.zeros(20, dtype=torch.int64)).std(dim=0).mean())

    assert spread("with", 0.5) > 1.3 * spread("without", 0.0)


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


def test_the_penalty_is_the_slope_at_generated_images(players, tmp_path):
    _, discriminator = players
    gradient = game(players, tmp_path, penalty=2.0)._penalty_gradient(
        torch.Generator().manual_seed(0)
    )
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


def test_a_penalised_discriminator_grows_flat(players, tmp_path):
    def nothing(step, _):
        return [torch.zeros_like(p) for p in players[1].parameters()]

    before = slopes(players)
    game(players, tmp_path, 5, penalty=0.0).play("left alone", 4, nothing)
    assert slopes(players) == before
    game(players, tmp_path, 5, penalty=1.0).play("penalised", 4, nothing)
    assert slopes(players) < 0.9 * before


def fitted(method, source, state, stop=None):
    true = Curator.gradient

    def killed(self, query, step, network, loss):
        if step == stop:
            raise KeyboardInterrupt
        return true(self, query, step, network, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curator, "gradient", killed)
        # Another run may measure another way to be the fastest; its sums differ in their last bits.
        patch.setattr("sfumato.privacy.answering.sampled.fastest_engine", lambda *_: "layers")
        try:
            with Curator(source, BUDGET, state=state, quiet=True, insecure_seed=1) as curator:
                model = method.fit(curator)
                record = curator.record()
                curator.close()
                return model, record
        except KeyboardInterrupt:
            return None


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_killed_run_ends_as_an_unbroken_one(small_dpgan, digits, tmp_path, monkeypatch, stop):
    monkeypatch.setattr("sfumato.methods.checkpoint.SAVED_EVERY", 2)
    method = small_dpgan(steps=6, warm_up="moments")
    whole, _ = fitted(method, digits, tmp_path / "whole")
    assert fitted(method, digits, tmp_path / "killed", stop) is None
    resumed, record = fitted(method, digits, tmp_path / "killed")
    for name, value in whole.tensors().items():
        assert np.array_equal(value, resumed.tensors()[name]), name
    assert [entry["kind"] for entry in record["ledger"]] == ["plan", "answer", "answer"]
    assert record["data_set_total"]["runs"] == 1


def test_a_killed_warm_up_ends_as_an_unbroken_one(small_dpgan, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.methods.checkpoint.SAVED_EVERY", 1)
    method = small_dpgan(steps=2, warm_up="moments", warm_up_steps=5)
    whole, _ = fitted(method, digits, tmp_path / "whole")
    true, calls = PairLoss.draws, []

    def killed(self, units, generator):
        calls.append(units)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true(self, units, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairLoss, "draws", killed)
        assert fitted(method, digits, tmp_path / "killed") is None
    resumed, _ = fitted(method, digits, tmp_path / "killed")
    for name, value in whole.tensors().items():
        assert np.array_equal(value, resumed.tensors()[name]), name


def test_a_warm_up_is_charged_as_one_sum_and_gives_the_class_sizes(small_dpgan, digits, tmp_path):
    plain, record = fitted(small_dpgan(), digits, tmp_path / "plain")
    assert [event["query"] for event in record["events"]] == ["gradient"]
    assert plain.counts.tolist() == [1.0] * 10
    warm, record = fitted(small_dpgan(warm_up="moments"), digits, tmp_path / "warm")
    assert [event["query"] for event in record["events"]] == ["sum", "gradient"]
    assert len(set(warm.counts.tolist())) == 10


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
        {"warm_up_steps": 1, "critic_steps": 2},
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
