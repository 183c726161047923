"""What teachers think, against slow oracles: one teacher at a time, by PyTorch's own parts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.methods import DataLens
from sfumato.methods.datalens.student import recipe
from sfumato.methods.datalens.teachers import (
    BETA1,
    BETA2,
    LEAK,
    TINY,
    NearestTeachers,
    NetworkTeachers,
)
from sfumato.privacy import GeneratedBatch, TeacherBatches
from sfumato.privacy.answering import vote
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.vote import VoteAnswering
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run

SIDE, CHANNELS, CLASSES = 12, 2, 3
PIXELS = CHANNELS * SIDE**2
N, BATCH, ASKED = 7, 5, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def basis():
    return torch.linalg.qr(torch.randn(PIXELS, 9, generator=seeded(3))).Q.T.contiguous()


@pytest.fixture(scope="module")
def shard():
    """Seven shards: the first is empty, the second has class 0 only, the third one record."""
    length = torch.tensor([0, 5, 1, 2, 3, 4, 5])[:, None]
    there = torch.arange(BATCH)[None] < length
    labels = torch.randint(CLASSES, (N, BATCH), generator=seeded(2))
    labels[1] = 0
    shape = (N, BATCH, CHANNELS, SIDE, SIDE)
    images = torch.randint(256, shape, generator=seeded(4), dtype=torch.uint8)
    return TeacherBatches(images * there[:, :, None, None, None], labels * there, there)


@pytest.fixture(scope="module")
def generated():
    images = torch.rand(ASKED, CHANNELS, SIDE, SIDE, generator=seeded(5))
    return GeneratedBatch(images, torch.arange(ASKED) % CLASSES, 0.5)


def spread_out(gradients, dimension):
    """Gradients for some coordinates as gradients for all, ``[n, dimension]``."""
    every = torch.zeros(len(gradients.values), dimension)
    return every.scatter_(1, gradients.index, gradients.values)


def nearest(basis, **changes):
    cold = {"first_spread": 1e-9, "last_spread": 1e-9, "reach": ASKED, "batch": BATCH}
    return NearestTeachers(basis, **{**cold, **changes})


def voted(teachers, shard, generated, seed=0):
    """What nearest teachers think, who remember nothing."""
    many = len(shard.labels)
    draws = teachers.draws(many, generated, seeded(seed))
    return teachers.vote(torch.zeros(many, 0), shard, generated, *draws)


def test_cold_teachers_point_from_the_nearest_image_to_each_record(basis, shard, generated):
    teachers = nearest(basis)
    memory, gradients = voted(teachers, shard, generated)
    expected = torch.zeros(N, ASKED, len(basis))
    asked = [basis @ image.flatten() for image in generated.images]
    for teacher, place in product(range(N), range(BATCH)):
        if not shard.there[teacher, place]:
            continue
        record = basis @ (shard.images[teacher, place].flatten().float() / 255)
        own = [i for i in range(ASKED) if generated.labels[i] == shard.labels[teacher, place]]
        image = min(own, key=lambda i: float((record - asked[i]).norm()))
        expected[teacher, image] += record - asked[image]
    ours = spread_out(gradients, ASKED * len(basis))
    torch.testing.assert_close(ours, expected.flatten(1), atol=1e-4, rtol=1e-4)
    assert memory.shape == (N, 0)
    assert not ours[0].any() and all(ours[teacher].any() for teacher in range(1, N))
    assert not ours[1].view(ASKED, -1)[generated.labels != 0].any()  # it knows class 0 only


def test_a_teacher_speaks_of_the_images_that_most_of_its_records_picked(basis, generated):
    """Three records at image 0, one at image 3; a teacher may speak of one image only."""
    near = (generated.images[[0, 0, 0, 3]] * 255).round().to(torch.uint8)[None]
    labels, there = generated.labels[[0, 0, 0, 3]][None], torch.ones(1, 4, dtype=torch.bool)
    teachers = nearest(basis, reach=1, batch=4)
    _, gradients = voted(teachers, TeacherBatches(near, labels, there), generated)
    assert gradients.index.tolist() == [list(range(len(basis)))]


def test_a_class_that_nobody_asked_about_is_passed_over(basis, shard, generated):
    only = GeneratedBatch(generated.images[:2], torch.tensor([0, 0]), 0.5)
    _, gradients = voted(nearest(basis), shard, only)
    others = replace(shard, there=shard.there & (shard.labels == 0))
    _, expected = voted(nearest(basis), others, only)
    assert torch.equal(gradients.values, expected.values)
    assert gradients.values.any()


def test_records_pick_by_a_softmax_of_distances_that_cools(basis):
    """One record, two images: P(first) = 1 / (1 + exp((far₁ - far₂) / 2h²)), h² falling."""
    record = torch.randint(256, (1, 1, CHANNELS, SIDE, SIDE), generator=seeded(), dtype=torch.uint8)
    exact = record[0, 0].float() / 255
    noise = torch.randn(2, CHANNELS, SIDE, SIDE, generator=seeded(1))
    images = exact + torch.tensor([0.05, 0.06])[:, None, None, None] * noise
    teachers, many = NearestTeachers(basis, batch=1), 4000
    far = [float((basis @ (image - exact).flatten()).square().sum()) for image in images]
    for progress, spread in ((0.0, 0.05), (0.5, math.sqrt(0.05 * 0.0005)), (1.0, 0.0005)):
        asked = GeneratedBatch(images, torch.tensor([0, 0]), progress)
        shard = TeacherBatches(
            record.expand(many, -1, -1, -1, -1),
            torch.zeros(many, 1, dtype=torch.int64),
            torch.ones(many, 1, dtype=torch.bool),
        )
        _, gradients = voted(teachers, shard, asked, 7)
        ways = spread_out(gradients, 2 * len(basis)).view(many, 2, -1)
        first = float(ways[:, 0].any(dim=1).float().mean())
        chance = 1 / (1 + math.exp((far[0] - far[1]) / (2 * spread * PIXELS)))
        assert abs(first - chance) < 4.9 * math.sqrt(chance * (1 - chance) / many) + 1e-9


class Alone(nn.Module):
    """One network teacher, written with PyTorch's own layers."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterDict(weights)
        names = sorted(name for name in weights if name.startswith("conv"))
        self.convolutions = nn.ModuleList()
        for name in names:
            kernel = weights[name]
            layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 4, stride=2, padding=1)
            layer.weight, layer.bias = (
                self.weights[name],
                self.weights[name.replace("conv", "bias")],
            )
            self.convolutions.append(layer)

    def forward(self, images, labels):
        x = self.convolutions[0](images) + self.weights["label"][labels][:, :, None, None]
        for layer in self.convolutions[1:]:
            x = layer(F.leaky_relu(x, LEAK))
        features = F.leaky_relu(x, LEAK).flatten(1)
        scores = (features * self.weights["score"][labels]).sum(dim=1) / math.sqrt(2)
        return scores + self.weights["offset"][labels].squeeze(1)


NETWORK = NetworkTeachers(SIDE, CHANNELS, CLASSES, width=4, batch=BATCH)


@pytest.fixture
def memory():
    return NETWORK.begin(N, seeded(6))


def alone(memory, teacher):
    flat = memory[teacher : teacher + 1, : NETWORK.weights]
    return Alone({name: value[0].clone() for name, value in NETWORK._unpacked(flat).items()})


def test_stacked_logits_are_those_of_each_network(memory, shard):
    images = shard.images / 127.5 - 1
    stacked = NETWORK.logits(NETWORK._unpacked(memory[:, : NETWORK.weights]), images, shard.labels)
    for teacher in range(N):
        expected = alone(memory, teacher)(images[teacher], shard.labels[teacher])
        torch.testing.assert_close(stacked[teacher], expected)


def test_first_weights_are_independent_and_have_hes_scale(memory):
    assert memory.shape == (N, NETWORK.memory)
    assert not memory[:, NETWORK.weights :].any()
    many = NETWORK._unpacked(NETWORK.begin(300, seeded())[:, : NETWORK.weights])
    assert len(torch.unique(many["conv0"][:, 0, 0, 0, 0])) == 300
    for name, fan in (("conv0", CHANNELS * 16), ("score", many["score"].shape[2])):
        assert float(many[name].std()) == pytest.approx(math.sqrt(2 / fan), rel=0.02)
    assert not many["bias0"].any() and not many["offset"].any() and not many["label"].any()


def test_steps_are_adams_and_opinions_are_gradients_of_one_teacher(memory, shard, generated):
    """Three votes of all teachers together, and of each by itself with ``torch.optim.Adam``."""
    asked = generated.images * 2 - 1
    fakes, fake_labels = asked[:BATCH], generated.labels[:BATCH]
    networks = [alone(memory, teacher) for teacher in range(N)]
    optimizers = [torch.optim.Adam(n.parameters(), 1e-3, (BETA1, BETA2), TINY) for n in networks]
    for _ in range(3):
        memory, gradients = NETWORK.vote(memory, shard, generated)
        flat = NETWORK._unpacked(memory[:, : NETWORK.weights])
        for teacher, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            there = shard.there[teacher]
            if there.any():
                real = network(
                    shard.images[teacher][there] / 127.5 - 1, shard.labels[teacher][there]
                )
                loss = F.softplus(-real).mean() + F.softplus(network(fakes, fake_labels)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for name, value in flat.items():
                torch.testing.assert_close(
                    value[teacher], network.weights[name].data, atol=3e-5, rtol=1e-4
                )
            seen = asked.clone().requires_grad_()
            F.softplus(-network(seen, generated.labels)).sum().backward()
            expected = -seen.grad.flatten() * bool(there.any())
            torch.testing.assert_close(gradients.values[teacher], expected, atol=1e-6, rtol=2e-3)
    assert gradients.index is None and gradients.values[1].any()


def test_a_teacher_without_records_learns_and_says_nothing(memory, shard, generated):
    after, gradients = NETWORK.vote(memory, shard, generated)
    assert torch.equal(after[0, : 3 * NETWORK.weights], memory[0, : 3 * NETWORK.weights])
    assert not gradients.values[0].any()
    assert not torch.equal(after[1, : NETWORK.weights], memory[1, : NETWORK.weights])


def test_opinions_in_a_basis_are_projections(basis, memory, shard, generated):
    _, plain = NETWORK.vote(memory, shard, generated)
    _, projected = replace(NETWORK, basis=basis).vote(memory, shard, generated)
    expected = plain.values.view(N, ASKED, PIXELS) @ basis.T
    torch.testing.assert_close(projected.values, expected.flatten(1))


def test_networks_learn_to_tell_their_records(generated):
    """They find their bright records more real than what is asked about, and say what is amiss."""
    images = torch.full((N, BATCH, CHANNELS, SIDE, SIDE), 230, dtype=torch.uint8)
    labels = (torch.arange(BATCH) % CLASSES).expand(N, -1)
    shard = TeacherBatches(images, labels, torch.ones(N, BATCH, dtype=torch.bool))
    teachers = replace(NETWORK, training_steps=30)
    memory, gradients = teachers.vote(teachers.begin(N, seeded()), shard, generated)
    weights = teachers._unpacked(memory[:, : teachers.weights])
    fake = (generated.images * 2 - 1).expand(N, -1, -1, -1, -1)
    asked = generated.labels.expand(N, -1)
    real = teachers.logits(weights, images / 127.5 - 1, labels).mean(dim=1)
    found = teachers.logits(weights, fake, asked)
    assert bool((real > found.mean(dim=1) + 1).all())
    followed = fake + 0.5 * gradients.values.view(fake.shape)
    assert bool((teachers.logits(weights, followed, asked) > found).all())


@pytest.mark.parametrize("kind", ["nearest", "network"])
@pytest.mark.parametrize("coordinates", ["cosine", "pixels"])
def test_teachers_that_work_together_do_not_notice(digits, tmp_path, kind, coordinates):
    """Bitwise: the curator's probe lets them, and here the first one's mates are replaced."""
    spec = digits.spec
    method = DataLens(kind=kind, teachers=8, images_per_class=2, coordinates=coordinates)
    teachers, (query,) = recipe(method, spec), method.queries(spec)
    asked = GeneratedBatch(
        torch.rand(20, 1, 28, 28, generator=seeded()), torch.arange(20) % 10, 0.5
    )
    run = OpenRun(digits, Run(tmp_path, "r", hold=False), Ledger(tmp_path))
    ballot = VoteAnswering(query, query.event("replace-one"), run)
    size = ballot._lone_size(teachers, asked)
    assert size > 1
    first = teachers.begin(size, seeded(1))
    shard = vote.public_shards(spec, size, teachers.batch, seeded(2))
    crowd = vote.public_shards(spec, size, teachers.batch, seeded(3))
    mixed = TeacherBatches(
        *(
            torch.cat([getattr(shard, part)[:1], getattr(crowd, part)[1:]])
            for part in ("images", "labels", "there")
        )
    )
    draws = teachers.draws(size, asked, seeded(4))
    one, ours = teachers.vote(first, shard, asked, *draws)
    two, theirs = teachers.vote(first, mixed, asked, *draws)
    assert torch.equal(one[0], two[0]) and torch.equal(ours.values[0], theirs.values[0])
    assert not torch.equal(ours.values[1:], theirs.values[1:])
