"""DPAF above layers of a public encoder: what an image adds, and what is asked and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.audit import Family, epsilon_independent, play
from sfumato.choosing import make_method
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features import public_patches
from sfumato.methods.dpaf.asymmetric_training import AsymmetricTraining
from sfumato.methods.dpaf.public_layers import PublicMaps
from sfumato.methods.mepf.embedding import joint_embedding
from sfumato.methods.mepf.generator import StartedGenerator, refiner
from sfumato.methods.mepf.model import MEPFModel
from sfumato.methods.public_model import PublicModel
from sfumato.networks import to_pixels
from sfumato.networks.aggregating import Upper
from sfumato.privacy import Budget, Curator
from sfumato.privacy.answering import base
from sfumato.privacy.answering.aggregate import class_sums
from sfumato.privacy.gradients.per_example import UnitBatch
from sfumato.privacy.grid import UNIT
from sfumato.privacy.plan import plan_for

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)
COLOUR = PublicSpec(64, 64, 3, ("a", "b"), 1000)
BUDGET = Budget(epsilon=10.0, delta=1e-5)


def extremes(spec):
    """Images that are as far apart as any: black, white, edges, chequers and noise."""
    shape = (6, spec.channels, spec.height, spec.width)
    images = torch.zeros(shape, dtype=torch.uint8)
    images[1] = 255
    images[2, ..., : spec.width // 2] = 255
    images[3, ..., ::2, 1::2] = images[3, ..., 1::2, ::2] = 255
    generator = torch.Generator().manual_seed(0)
    images[4:] = torch.randint(256, (2, *shape[1:]), dtype=torch.uint8, generator=generator)
    return images


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (SPEC, {}),
        (SPEC, {"second_weight": 0.0, "start_coefficients": 0}),
        (COLOUR, {"layers": (2, 17), "second_weight": 2.0, "public": public_patches(COLOUR, 20)}),
    ],
)
def test_an_image_adds_at_most_the_clip_norm_whatever_it_shows(public_dpaf, spec, changes):
    method = public_dpaf(**changes)
    (query,) = method.queries(spec)
    joint, maps = joint_embedding(method.embedding(), spec), PublicMaps(method.second_weight)
    images, labels = extremes(spec), torch.tensor([0, 0, 1, 1, 0, 1])
    rows = maps(joint, images, labels)
    assert rows.shape == (6, query.dimension)
    assert float(rows.norm(dim=1).max()) <= query.clip_norm * (1 + 1e-6)
    assert float(rows.norm(dim=1).max()) > 0.5 * query.clip_norm, "the bound is not wasted"
    # What the discriminator sees of a generated image is the same part of the same row.
    seen = maps.maps(joint, to_pixels(images))
    torch.testing.assert_close(seen, rows[:, 1 : 1 + seen.shape[1]], atol=1e-5, rtol=1e-4)
    assert float(seen.norm(dim=1).max()) <= maps.reach * (1 + 1e-6)
    # Sensitivity: one unit less moves the sums of all classes together by S at most.
    total = class_sums(joint, maps, UnitBatch(images, labels, ()), query, 8)
    for left in range(6):
        kept = torch.arange(6) != left
        fewer = class_sums(joint, maps, UnitBatch(images[kept], labels[kept], ()), query, 8)
        assert float((total - fewer).double().norm()) <= UNIT
        assert not (total - fewer)[torch.arange(query.rows) != labels[left]].any()


def test_one_release_over_all_records_is_what_the_preset_asks():
    method = make_method("dpaf", SPEC, preset="public")
    (query,) = method.queries(SPEC)
    assert (query.steps, query.sampling_rate, query.backward) == (1, 1.0, False)
    assert query.to_dict()["encoder"] == "efficientnet-lite0"
    assert len(query.to_dict()["encoder_digest"]) == 64


def test_releases_over_smaller_samples_are_never_better_than_one_over_all(public_dpaf):
    """What the preset rests on: deviation of an average of sums over the share of records in it."""
    steps = 8

    def deviation(steps, batch):
        plan = plan_for(public_dpaf(steps=steps, batch=batch), BUDGET, SPEC)
        (query,) = plan.queries
        std = query.noise_stds(plan.event("means").noise_std)[0]
        return std / (query.sampling_rate * steps**0.5)

    whole = deviation(1, 1000)
    assert deviation(steps, 1000) == pytest.approx(whole, rel=0.01)
    assert deviation(steps, 1000 // steps) > whole


def test_training_goes_through_releases_and_the_start_is_theirs(public_dpaf, digits, tmp_path):
    method = public_dpaf(steps=2, batch=300)
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        model = method.fit(curator)
        assert [event["count"] for event in curator.record()["events"]] == [2]
    assert model.config() == method.model_config(digits.spec)
    start = model.generator.start
    assert start is not None and float(start.roots.abs().max()) > 0
    assert len(model.counts) == 10 and 5 < model.counts.mean() < 80
    images, labels = next(model.sample(20))
    assert images.shape == (20, 1, 28, 28) and images.std() > 10
    assert set(np.unique(labels)) == set(range(10))


def proven(query):
    """The ε that the audit's game proves of the query, over the claim."""
    budget = Budget(8.0, 1e-5)
    attacked, plan = play([query], budget, 800, SPEC.classes)
    family = Family(plan.events, budget.delta, budget.relation)
    return epsilon_independent(attacked.scores, attacked.present, family, 1e-4) / 8.0


def test_the_audit_covers_the_release_and_can_fail(public_dpaf, monkeypatch):
    (query,) = public_dpaf().queries(SPEC)
    assert 0.4 < proven(query) <= 1
    true = base.add_noise
    monkeypatch.setattr(base, "add_noise", lambda total, std, key: true(total, std / 3, key))
    assert proven(query) > 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": (5, 3)}, "layers"),
        ({"layers": (3, 18)}, "layers"),
        ({"second_weight": -1.0}, "second_weight"),
        ({"start_coefficients": -1}, "start_coefficients"),
        ({"position": 2}, "position=2 is of layers that are not public"),
        ({"maps": 4}, "maps=4 is of layers that are not public"),
        ({"clip_norm": 1.0}, "clip_norm=1.0 is of layers that are not public"),
        ({"public_model_digest": "ab", "first_layer": "random"}, "first_layer=public"),
        ({"first_layer": "private"}, "first_layer=public"),
    ],
)
def test_what_does_not_fit_public_layers_is_refused(public_dpaf, changes, problem):
    with pytest.raises(UsageError, match=problem):
        public_dpaf(**changes)


def test_a_generator_starts_from_a_public_model_of_its_own_form(public_dpaf, digits, tmp_path):
    def made(spec):
        model = MEPFModel(spec, np.ones(1), StartedGenerator(spec, None, refiner(spec, 16)), None)
        return PublicModel("mepf", model, {})

    method = public_dpaf(batch=300, public_model=made(PublicSpec(28, 28, 1, ())))
    assert method.generator_width == 16 and method.config()["public_model_digest"]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        true = AsymmetricTraining.run

        def watched(self, *given):
            seen.append(self.generator.refiner.state_dict()["down.weight"].clone())
            return true(self, *given)

        patch.setattr(AsymmetricTraining, "run", watched)
        with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
            method.fit(curator)
    known = method.public_model.model.generator.refiner.state_dict()["down.weight"]
    assert torch.equal(seen[0], known)
    state = tmp_path / "refused"
    other = public_dpaf(batch=300, public_model=made(PublicSpec(32, 32, 1, ())))
    with (
        Curator(digits, BUDGET, state=state, quiet=True) as curator,
        pytest.raises(UsageError, match="32x32 pixels"),
    ):
        other.fit(curator)
    assert not list(state.rglob("*.jsonl")), "nothing was charged"


def test_layers_of_any_side_have_upper_layers():
    shapes = [(2, 1, 1), (3, 2, 2), (4, 8, 8)]
    upper = Upper(shapes, 2, 5)
    assert upper(torch.zeros(2, 2 + 12 + 256), torch.tensor([0, 1])).shape == (2,)
