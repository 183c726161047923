"""DPAF: what reaches the curator, and who learns from what."""

from __future__ import annotations

import json

import pytest
import torch

from sfumato.choosing import make_method
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import DPAF
from sfumato.methods.dpaf.asymmetric_training import AsymmetricSettings, AsymmetricTraining
from sfumato.methods.dpaf.class_means import ClassMaps, NoisyClassMeans
from sfumato.methods.training import Session
from sfumato.networks import Generator, to_pixels
from sfumato.networks.aggregating import Lower, Upper
from sfumato.privacy import AggregateQuery, Budget, Curator

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)
BUDGET = Budget(epsilon=10.0, delta=1e-5)


def pixels(count, size=28, channels=1):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_eight_pixels_a_side_and_do_not_know_their_mates(size, channels):
    torch.manual_seed(0)
    lower = Lower(size, channels, 4, 4)
    images = pixels(3, size, channels) / 127.5 - 1
    together = lower(images).detach()
    assert together.shape == (3, 4, 8, 8)
    for place in range(3):
        alone = lower(images[place : place + 1])[0]
        torch.testing.assert_close(alone, together[place], atol=1e-3, rtol=1e-3)
    norms = together.flatten(1).norm(dim=1)
    assert (
        lower.shape.norm * (1 + 1e-5) >= float(norms.max())
        and float(norms.min()) > 0.9 * lower.shape.norm
    )
    torch.testing.assert_close(together.mean(dim=(2, 3)), torch.zeros(3, 4), atol=1e-5, rtol=0)
    assert Upper(lower.map_shapes, 2, 4)(together.flatten(1), torch.tensor([0, 1, 1])).shape == (3,)


def test_position_and_normalisation_are_options():
    assert [Lower(28, 1, 4, 4, position=p).side for p in (1, 2, 3)] == [16, 8, 4]
    assert not list(Lower(28, 1, 4, 4, position=1).parameters())  # the first layer is fixed
    raw = Lower(28, 1, 4, 4, normalised=False)(pixels(2) / 127.5 - 1).detach()
    assert float(raw.mean(dim=(2, 3)).abs().max()) > 1e-3


@pytest.mark.parametrize("reach", [0.5, 1e6])
def test_features_are_bounded_maps_and_a_constant(reach):
    torch.manual_seed(0)
    lower, maps = Lower(28, 1, 4, 4, normalised=False), ClassMaps(reach)
    rows = maps(lower, pixels(5), torch.zeros(5, dtype=torch.int64))
    assert rows.shape == (5, 4 * 64 + 1)
    assert float(rows.norm(dim=1).max()) <= maps.clip_norm * (1 + 1e-5)
    assert torch.unique(rows[:, -1]).tolist() == pytest.approx([0.1 * reach])
    raw = lower(pixels(5) / 127.5 - 1).flatten(1)
    factor = (reach / raw.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(rows[:, :-1], raw * factor)


class Told(Curator):
    """A curator that has one answer, and remembers what it was asked."""

    def __init__(self, total, gradient_dimension):
        self.total, self.gradient_dimension, self.asked = total, gradient_dimension, []

    def aggregate(self, name, step, network, features):
        self.asked.append((name, step))
        return self.total

    def pull_back(self, name, step, network, features, cotangent):
        self.asked.append((name, step, cotangent))
        return torch.zeros(self.gradient_dimension)


def test_each_mu_th_step_asks_for_a_gradient_and_the_others_do_not():
    lower, maps = Lower(28, 1, 4, 4), ClassMaps(2.0)
    size = sum(p.numel() for p in lower.parameters())
    forward = AggregateQuery("f", 2, 257, 1.0, 0.5, 4)
    joint = AggregateQuery("j", 2, 257, 1.0, 0.5, 2, gradient_dimension=size)
    total = torch.full((2, 257), 6.0)
    total[:, -1] = torch.tensor([0.2 * 30, -1.0])  # thirty units, and a count that noise drowned
    curator = Told(total, size)
    tally = torch.zeros(3)
    releases = NoisyClassMeans(curator, forward, joint, 3, 0.5, lower, maps, 20.0, tally)
    for step in range(6):
        means, noise = releases.means(step)
        assert means[:, 0].tolist() == pytest.approx(
            [6 / 30, 6 / 5]
        )  # a quarter of twenty at least
        assert noise.tolist() == pytest.approx([0.5 / 30, 0.5 / 5])
        if step % 3 == 2:
            releases.pull_back(step, torch.ones(2, 256))
    names = [entry[:2] for entry in curator.asked]
    assert names == [
        *[("f", 0), ("f", 1), ("j", 0), ("j", 0)],
        *[("f", 2), ("f", 3), ("j", 1), ("j", 1)],
    ]
    cotangent = curator.asked[3][2]
    assert cotangent[:, 0].tolist() == pytest.approx([1 / 30, 1 / 5])
    assert cotangent[:, -1].tolist() == [0.0, 0.0]
    assert tally[-1] == 6 and tally[0] == pytest.approx(180)


def shades(count, generator):
    """Classes of a left, a right and an upper bright half."""
    labels = torch.randint(3, (count,), generator=generator)
    images = torch.full((count, 1, 28, 28), 20, dtype=torch.uint8)
    images[labels == 0, :, :, :14] = 230
    images[labels == 1, :, :, 14:] = 230
    images[labels == 2, :, :14] = 230
    return images, labels


class ShadedMeans:
    """Class means of a batch of shades, without noise, and the gradient over the same batch."""

    def __init__(self, lower, maps):
        self.lower, self.maps, self.random = lower, maps, torch.Generator().manual_seed(0)

    def means(self, step):
        images, labels = shades(512, self.random)
        values = self.maps.maps(self.lower, to_pixels(images))
        sums = values.new_zeros(3, values.shape[1]).index_add(0, labels, values)
        self.newest = sums / torch.bincount(labels, minlength=3)[:, None]
        return self.newest.detach(), torch.zeros(3)

    def pull_back(self, step, cotangent):
        return torch.autograd.grad(self.newest, list(self.lower.parameters()), cotangent)


def training(**changes):
    torch.manual_seed(0)
    values = {
        "loss": "hinge",
        "matching": 0.0,
        "generator_steps": 2,
        "generated": 8,
        "moving_average": 0.0,
        "memory": 3,
        "every": 2,
        "generator_rate": 5e-3,
        "upper_rate": 2e-3,
        "lower_rate": 1e-3,
        "average": 0.9,
    }
    lower = Lower(28, 1, 4, 8)
    upper, generator = Upper(lower.map_shapes, 3, 8), Generator(28, 1, 3, 8, latent=8)
    settings, maps = AsymmetricSettings(**{**values, **changes}), ClassMaps(lower.shape.norm)
    return AsymmetricTraining(Session(quiet=True), lower, upper, generator, maps, settings, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "non-saturating"},
        {"matching": 1.0, "every": 0},
        {"moving_average": 0.5, "every": 0},
    ],
    ids=["hinge", "non-saturating", "matching", "running means"],
)
def test_training_teaches_the_generator_its_classes(changes):
    networks = training(**changes)
    below = [p.detach().clone() for p in networks.lower.parameters()]
    generator = networks.run(40, ShadedMeans(networks.lower, networks.maps), {})
    labels = torch.arange(3).repeat_interleave(20)
    with torch.no_grad():
        images = generator(torch.randn(60, 8), labels).view(3, 20, 28, 28).mean(dim=1)
    left, right, up = images
    assert left[:, :14].mean() > left[:, 14:].mean() + 0.3
    assert right[:, 14:].mean() > right[:, :14].mean() + 0.3
    assert up[:14].mean() > up[14:].mean() + 0.3
    moved = [not torch.equal(a, b) for a, b in zip(below, networks.lower.parameters(), strict=True)]
    assert moved == [changes.get("every") != 0] * len(below)


def test_the_first_layer_that_was_learned_is_the_one_in_use(small_dpaf, digits, tmp_path):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        true = Curator.aggregate

        def watched(self, query, step, network, features):
            seen.append(network.blocks[0].weight.clone())
            return true(self, query, step, network, features)

        patch.setattr(Curator, "aggregate", watched)
        for name in ("random", "private"):
            method = small_dpaf(first_layer=name)
            with Curator(digits, BUDGET, state=tmp_path / name, quiet=True) as curator:
                method.fit(curator)
    random, learned = seen[:3], seen[3:]
    assert all(torch.equal(random[0], other) for other in random[1:])
    assert all(torch.equal(learned[0], other) for other in learned[1:])
    assert not torch.allclose(random[0], learned[0])


def test_the_split_divides_the_squared_signal(small_dpaf):
    method = small_dpaf(
        steps=10,
        every=5,
        first_layer="private",
        split=(0.2, 0.3, 0.5),
    )
    first, means, joint = method.queries(SPEC)
    assert [q.name for q in (first, means, joint)] == ["first-layer", "means", "means-and-gradient"]
    assert (means.steps, joint.steps) == (8, 2) and means.forward_noise == joint.forward_noise
    rate = 30 / 1000
    shares = [
        rate**2 * first.steps / first.relative_noise**2,
        rate**2 * 2 / joint.backward_noise**2,
        rate**2 * 10 / means.forward_noise**2,
    ]
    assert shares == pytest.approx([0.2, 0.3, 0.5])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"every": 0}, ["means"]),
        ({"every": 1}, ["means-and-gradient"]),
        ({"position": 1}, ["means"]),
    ],
)
def test_what_is_not_trained_is_not_asked_for(small_dpaf, digits, tmp_path, changes, names):
    method = small_dpaf(**changes)
    assert [query.name for query in method.queries(SPEC)] == names
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        method.fit(curator)
        assert [event["name"] for event in curator.record()["events"]] == names


@pytest.mark.parametrize(
    ("changes", "spec", "problem"),
    [
        ({}, PublicSpec(28, 28, 1, ()), "declared"),
        ({"batch": 1001}, SPEC, "must not exceed"),
        ({"first_layer": "private"}, PublicSpec(28, 28, 1, (), 1000), "needs classes"),
        ({"position": 4}, SPEC, "position=4"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(small_dpaf, changes, spec, problem):
    with pytest.raises(UsageError, match=f"dpaf.*{problem}"):
        small_dpaf(**changes).queries(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"every": -1},
        {"position": 0},
        {"clip_norm": None, "normalised": False},
        {"clip_norm": -1.0},
        {"split": (1.0, 0.0, 1.0)},
        {"generator_width": 6},
        {"average": 1.0},
        {"lower_rate": 0.0},
        {"matching": -1.0},
    ],
)
def test_a_value_outside_its_rule_is_refused(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        DPAF(**changes)


def test_the_preset_fits_small_data_sets():
    assert make_method("dpaf", SPEC, preset="cpu").batch <= 1000
    with pytest.raises(UsageError, match="preset='paper'"):
        make_method("dpaf", SPEC, preset="paper")


def test_configuration_is_json_and_makes_the_same_method(small_dpaf):
    values = json.loads(json.dumps(small_dpaf().config()))
    assert DPAF.of(values) == small_dpaf()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_colour_and_larger_images_have_a_plan(small_dpaf, size):
    spec = PublicSpec(size, size, 3, ("a", "b"), declared_size=1000)
    means, joint = small_dpaf().queries(spec)
    assert means.dimension == 4 * 64 + 1
    lower = Lower(size, 3, 4, 4)
    assert joint.gradient_dimension == sum(p.numel() for p in lower.parameters())
    assert "hours" in small_dpaf().estimate(spec)["training_time"]
