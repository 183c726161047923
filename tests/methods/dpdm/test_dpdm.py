"""DPDM: what its loss averages, what its warm-ups draw, and what it is trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato.choosing import make_method
from sfumato.data import open_images
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import DPDM, load_model
from sfumato.methods.dpdm.diffusion import Denoiser, DenoisingLoss, network_of
from sfumato.methods.dpdm.first_queries import warm_query
from sfumato.methods.dpdm.parameterisations import EDM
from sfumato.methods.dpdm.settings import Shape
from sfumato.methods.dpdm.warm_up import CentralImages, MomentImages
from sfumato.methods.public_model import PublicModel
from sfumato.methods.training import Session
from sfumato.networks import UNet
from sfumato.privacy import Answer, Budget, Curator
from sfumato.synthesis import sample, synthesize

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)
BUDGET = Budget(epsilon=10.0, delta=1e-5)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = UNet(28, 1, 3, width=8, blocks=1, patch=4)
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return network


def test_a_units_loss_is_the_mean_over_its_own_draws(network):
    loss = DenoisingLoss(Denoiser(network, EDM(), bfloat16=False), 3, label_dropout=0.5)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    sigma, noise, dropped = loss.draws(4, torch.Generator().manual_seed(0))
    assert sigma.shape == (4, 3) and noise.shape == (4, 3, 1, 28, 28) and dropped.shape == (4,)
    assert dropped.any() and not dropped.all()
    clean = images / 127.5 - 1
    with torch.no_grad():
        ours = loss(network, images, labels, sigma, noise, dropped)
        for unit in range(4):
            known = torch.tensor([3 if dropped[unit] else labels[unit]])
            each = [
                EDM().loss(
                    network, clean[unit][None], known, sigma[unit, k][None], noise[unit, k][None]
                )
                for k in range(3)
            ]
            torch.testing.assert_close(ours[unit], torch.stack(each).mean())


def test_draws_of_a_unit_are_independent_of_its_mates(network):
    loss = DenoisingLoss(Denoiser(network, EDM(), bfloat16=False), 2, label_dropout=0.3)
    sigma, noise, dropped = loss.draws(500, torch.Generator().manual_seed(0))
    assert abs(np.corrcoef(sigma.log()[:, 0], sigma.log()[:, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1]) < 0.01
    assert 0.22 < dropped.float().mean() < 0.38


def test_a_released_model_changes_its_sampler_and_nothing_else(small_dpdm, few_digits, tmp_path):
    release = synthesize(
        few_digits,
        epsilon=10.0,
        classes=10,
        declared_size=400,
        method=small_dpdm(),
        samples=20,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    model = load_model(release / "model.safetensors")
    again = sample(
        release, samples=20, out=tmp_path / "a", sampler="ddim", sampling_steps=3, quiet=True
    )
    other = load_model(again / "model.safetensors")
    assert (model.sampler, other.sampler, other.sampling_steps) == ("quick", "ddim", 3)
    for name, value in model.tensors().items():
        assert np.array_equal(value, other.tensors()[name])
    with pytest.raises(UsageError, match="sampler='euler'"):
        sample(release, samples=2, out=tmp_path / "b", sampler="euler", quiet=True)


def test_only_a_diffusion_model_has_samplers(digits_release, tmp_path):
    with pytest.raises(UsageError, match="only a diffusion model"):
        sample(digits_release, samples=2, out=tmp_path / "b", sampler="ddim", quiet=True)


@pytest.mark.parametrize(
    ("changes", "spec", "problem"),
    [
        ({}, PublicSpec(28, 28, 1, ()), "declared"),
        ({"batch": 1001}, SPEC, "must not exceed"),
    ],
)
def test_a_plan_without_a_public_rate_is_refused(small_dpdm, changes, spec, problem):
    with pytest.raises(UsageError, match=problem):
        small_dpdm(**changes).queries(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"parameterisation": "x"},
        {"width": 6},
        {"sampler": "x"},
        {"rank": 0},
    ],
)
def test_a_value_outside_its_rule_is_refused(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        DPDM(**changes)


def test_pre_training_needs_public_images():
    with pytest.raises(UsageError, match="--public"):
        DPDM(public_steps=5)


def test_public_images_are_learned_before_private_ones(small_dpdm, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sfumato.methods.dpdm.phases.PUBLIC_BATCH", 8)

    def learnt(method, name):
        state = tmp_path / name
        with Curator(digits, BUDGET, state=state, quiet=True, insecure_seed=1) as curator:
            return method.fit(curator).tensors()

    theirs = learnt(small_dpdm(), "alone")
    for conditional in (False, True):
        method = make_method(
            "dpdm",
            digits.spec,
            {**small_dpdm().config(), "public_steps": 4, "public_conditional": conditional},
            public="digits",
        )
        assert method.public is not None and method.config()["public_digest"]
        assert bool(method.public_labels.any()) is conditional
        ours = learnt(method, str(conditional))
        assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


def test_presets_fit_the_image_size():
    paper = make_method("dpdm", SPEC, preset="paper")
    assert (paper.batch, paper.multiplicity, paper.patch) == (1000, 32, 1)
    large = PublicSpec(128, 128, 3, ("a", "b"), declared_size=100_000)
    assert make_method("dpdm", large, preset="paper").patch == 4
    assert make_method("dpdm", large, {"patch": 16}, preset="cpu").patch == 16
    with pytest.raises(UsageError, match="preset='gpu'"):
        make_method("dpdm", SPEC, preset="gpu")
    with pytest.raises(UsageError, match="moments has no presets"):
        make_method("moments", SPEC, preset="cpu")


def test_the_papers_networks_have_the_papers_sizes():
    def parameters(spec):
        method = make_method("dpdm", spec, preset="paper")
        return sum(p.numel() for p in network_of(method.shape, spec).parameters())

    assert parameters(PublicSpec(28, 28, 1, (), 60_000)) == pytest.approx(1.75e6, rel=0.005)
    assert parameters(PublicSpec(32, 32, 3, (), 50_000)) == pytest.approx(1.80e6, rel=0.005)


def test_configuration_is_json_and_makes_the_same_method(small_dpdm):
    config = small_dpdm().config()
    values = json.loads(json.dumps(config))
    assert DPDM(**{**values, "multipliers": tuple(values["multipliers"])}) == small_dpdm()


@pytest.mark.parametrize("kind", [MomentImages, CentralImages])
def test_a_warm_up_image_mostly_keeps_its_length_and_draws_its_class(kind):
    source = open_images("digits", declared_size=1500)
    warm = kind(source.spec)
    query = warm_query(kind.name, source.spec, 10.0)
    images, labels = next(source.batches(1797))
    rows = query.values(torch.from_numpy(images), torch.from_numpy(labels))
    assert rows.shape == (len(images), query.dimension)
    norms = rows.norm(dim=1)
    assert (norms <= query.clip_norm * (1 + 1e-5)).float().mean() > 0.6  # the others are shortened
    total = np.zeros((10, query.dimension))
    np.add.at(total, labels, rows.numpy())
    warm.learn(Answer(total, np.zeros(0), 1e-6), Session())
    np.testing.assert_allclose(warm.counts, np.bincount(labels), rtol=1e-3)
    drawn, names = warm.draw(3000, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.uint8 and drawn.shape == (3000, 1, 28, 28)
    for digit in range(10):
        ours = drawn[names == digit].float().mean(dim=0)
        theirs = torch.from_numpy(images[labels == digit]).float().mean(dim=0)
        assert float((ours - theirs).abs().mean()) < 12


def test_a_warm_up_on_embedded_images_is_charged_as_one_sum(
    small_dpdm, small_mepf, digits, tmp_path, monkeypatch
):
    for user in ("first_queries", "warm_up"):
        monkeypatch.setattr(f"sfumato.methods.dpdm.{user}.EMBEDDING", small_mepf())
    monkeypatch.setattr("sfumato.methods.dpdm.warm_up.POOL", 50)
    with Curator(digits, BUDGET, state=tmp_path, quiet=True, insecure_seed=1) as curator:
        small_dpdm(warm_up="mepf").fit(curator)
        record = curator.record()
    assert [event["query"] for event in record["events"]] == ["sum", "gradient"]
    assert record["events"][0]["noise_std"] > 0


def test_a_shape_is_the_network_it_describes():
    network = network_of(Shape(8, (1, 2), 1, 8, 4), SPEC)
    assert (network.width, network.patch, network.classes) == (8, 4, 3)


@pytest.fixture
def learnt(digits, monkeypatch):
    """A tiny public denoiser; private steps take one engine."""
    engine = "sfumato.privacy.answering.sampled.engine_that_fits"
    monkeypatch.setattr(engine, lambda *_: ("layers", 64))
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 28, 28), dtype=np.uint8)
    settings = {"public_steps": 1, "width": 8, "blocks": 1, "patch": 4, "sampling_steps": 2}
    spec, labels = replace(digits.spec, classes=()), np.zeros(8, np.int64)
    return DPDM.pretrained(spec, (images, labels), settings, Session(quiet=True))


def test_fine_tuning_the_last_block_leaves_the_rest_as_the_public_model_has_it(
    digits, small_dpdm, learnt
):
    method = small_dpdm(public_model=PublicModel("dpdm", learnt, {}), finetune="last")
    (query,) = method.queries(digits.spec)
    with Curator(digits, BUDGET, quiet=True) as curator:
        weights = method.fit(curator).denoiser.network.state_dict()
    before = learnt.denoiser.network.state_dict()
    changed = {name for name in before if not torch.equal(weights[name], before[name])}
    last = max(int(name.split(".")[1]) for name in before if name.startswith("up."))
    trained = {n for n in weights if n.startswith((f"up.{last}.", "leave.", "paint.", "label."))}
    assert {"paint.weight", "leave.bias", f"up.{last}.residual.first.weight"} <= changed
    assert changed <= trained
    assert query.dimension == sum(weights[name].numel() for name in trained)
    assert query.dimension < sum(value.numel() for value in weights.values()) / 2
    assert query != replace(method, finetune="all").queries(digits.spec)[0]


def test_adapters_change_each_weight_by_a_matrix_of_their_rank_and_nothing_else(
    digits, small_dpdm, learnt
):
    method = small_dpdm(public_model=PublicModel("dpdm", learnt, {}), finetune="adapters", rank=2)
    (query,) = method.queries(digits.spec)
    with Curator(digits, BUDGET, quiet=True) as curator:
        model = method.fit(curator)
    weights, before = (m.denoiser.network.state_dict() for m in (model, learnt))
    expected, ranks = weights["label.weight"].numel(), set()
    for name, value in before.items():
        change = weights[name] - value
        if value.dim() < 2:  # biases and normalisations
            assert not change.any()
            continue
        smaller = min(value.flatten(1).shape)
        expected += min(2, smaller) * sum(value.flatten(1).shape)
        sizes = torch.linalg.svdvals(change.flatten(1).double())
        assert sizes[0] > 0 and (sizes[2:] < 1e-3 * sizes[0]).all()
        ranks.add(int((sizes > 1e-3 * sizes[0]).sum()))
    assert ranks == {2}
    assert query.dimension == expected < sum(v.numel() for v in before.values()) / 2
    assert query != replace(method, rank=1).queries(digits.spec)[0]
    # What is released is the plain network, which anybody can load and sample from.
    again = type(model).load(model.spec, model.config(), model.tensors())
    ours, theirs = (np.concatenate([i for i, _ in m.sample(4)]) for m in (model, again))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("finetune", ["last", "adapters"])
def test_a_part_is_not_fine_tuned_on_random_weights(small_dpdm, finetune):
    with pytest.raises(UsageError, match="at random"):
        small_dpdm(finetune=finetune)
    small_dpdm(finetune=finetune, warm_up="moments")
