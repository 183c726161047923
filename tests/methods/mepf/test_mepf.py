"""DP-MEPF: the joint release, its losses, and training on a released embedding."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError, UsageError
from sfumato.features import PerceptualFeatures, PooledCoordinates, PublicAxes
from sfumato.methods import DPMEPF
from sfumato.methods.mean_matching import factor_apart, told_apart
from sfumato.methods.mepf.embedding import Embedding, JointEmbedding
from sfumato.methods.mepf.labeller import Labeller
from sfumato.methods.mepf.matching import Matching
from sfumato.methods.mepf.method import fit_embedding
from sfumato.methods.registry import configured
from sfumato.methods.training import Session
from sfumato.privacy import Budget, Curator

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"))


@pytest.fixture(scope="module")
def joint(small_mepf):
    return JointEmbedding(small_mepf(), SPEC)


def noiseless(joint, images, labels):
    """The answer the curator would give without noise, for images at hand."""
    rows = joint.contribution(torch.from_numpy(images), torch.from_numpy(labels)).double()
    split = rows.shape[1] - joint.blocks.shared
    total = torch.zeros(3, split, dtype=torch.float64)
    total.index_add_(0, torch.from_numpy(labels), rows[:, :split])
    shared = rows[:, split:].sum(dim=0).numpy()
    return Embedding(total.numpy(), shared, 1e-6, SPEC, joint.method.config())


@pytest.fixture(
    scope="module",
    params=[
        {"bound": "norm"},
        {"bound": "clip"},
        {"bound": "per-layer"},
        {"centred": False},
        {"encoder_size": 32},
        {"random_networks": 2},
    ],
    ids=str,
)
def bounded(request, small_mepf):
    return JointEmbedding(small_mepf(**request.param), SPEC)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_a_contribution_never_exceeds_the_clip_norm(bounded, seed):
    joint = bounded
    rng = np.random.default_rng(seed)
    images = rng.choice([0, 128, 255], (4, 1, 28, 28)).astype(np.uint8)
    rows = joint.contribution(torch.from_numpy(images), torch.zeros(4, dtype=torch.int64))
    assert rows.shape == (4, joint.blocks.dimension)
    assert float(rows.norm(dim=1).max()) <= joint.blocks.norm * (1 + 1e-5)


def test_an_answer_is_taken_apart_into_class_means(joint):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 1, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 3, 30)
    targets = joint.targets(noiseless(joint, images, labels))
    np.testing.assert_allclose(targets.counts, np.bincount(labels), rtol=1e-6)
    with torch.no_grad():
        first, second = joint.moments(joint.features.of(images))
    for c in range(3):
        mine = torch.from_numpy(labels == c)
        torch.testing.assert_close(targets.first[c], first[mine].mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(targets.second[c], second[mine].mean(0), atol=1e-5, rtol=1e-4)


def test_the_means_of_random_networks_are_taken_out_of_the_answer(small_mepf):
    joint = JointEmbedding(small_mepf(random_networks=2, labeller_size=0), SPEC)
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 28, 28), dtype=np.uint8)
    targets = joint.targets(noiseless(joint, images, np.arange(9) % 3))
    rows = joint.random(torch.from_numpy(images).float() / 255)
    torch.testing.assert_close(targets.random, rows.view(3, 3, -1).mean(0), atol=1e-5, rtol=1e-4)


def test_blocks_lie_side_by_side_each_within_its_norm(bounded):
    images = np.random.default_rng(1).choice([0, 255], (3, 1, 28, 28)).astype(np.uint8)
    rows = bounded.contribution(torch.from_numpy(images), torch.zeros(3, dtype=torch.int64))
    blocks = rows.split([length for length, _ in bounded.blocks.lengths_and_norms()], dim=1)
    for block, (_, norm) in zip(blocks, bounded.blocks.lengths_and_norms(), strict=True):
        assert float(block.norm(dim=1).max()) <= norm * (1 + 1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compress": 16},
        {"layers": (5,), "labeller_size": 0},
        {"encoder_size": 32},
        {"random_networks": 1},
    ],
)
def test_queries_follow_from_the_configuration_alone(changes, channels, small_mepf):
    spec = PublicSpec(28, 28, channels, ("a", "b", "c"))
    method = small_mepf(**changes)
    (query,) = method.queries(spec)
    joint = JointEmbedding(method, spec)
    black = torch.zeros((2, channels, 28, 28), dtype=torch.uint8)
    rows = joint.contribution(black, torch.zeros(2, dtype=torch.int64))
    assert rows.shape == (2, query.dimension)
    assert (joint.blocks.dimension, joint.blocks.norm) == (query.dimension, query.clip_norm)
    assert joint.second is None or joint.coordinates.width + 1 == joint.second.width
    derived_alike(method, spec)


def derived_alike(method, spec):
    again = configured("mepf", json.loads(json.dumps(method.config())))
    assert again.public is None and again.model_config(spec) == method.model_config(spec)
    assert [q.to_dict() for q in again.queries(spec)] == [q.to_dict() for q in method.queries(spec)]


@pytest.mark.parametrize(
    "changes", [{}, {"encoder_size": 32}, {"compress": 9}, {"random_networks": 1}], ids=str
)
def test_an_estimate_fits_nothing_and_does_the_same_work(changes, small_mepf, monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("axes or scales were fitted")

    monkeypatch.setattr(PublicAxes, "fit", refused)
    monkeypatch.setattr(PerceptualFeatures, "fit", refused)
    method = small_mepf(**changes)
    blank = JointEmbedding(method, SPEC, blank=True)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    rows = blank.contribution(images, torch.zeros(2, dtype=torch.int64))
    assert rows.shape == (2, method.queries(SPEC)[0].dimension)
    assert method.estimate(SPEC).keys() == {"reading_time", "memory", "training_time"}


def test_public_images_may_give_more_axes_than_the_file_that_ships(small_mepf):
    derived_alike(small_mepf(encoder_size=32, labeller_size=601), SPEC)
    with pytest.raises(UsageError, match="ship"):
        small_mepf(encoder_size=32, labeller_size=601, public=None).queries(SPEC)


@pytest.mark.parametrize("size", [0, 32])
def test_the_labeller_sees_the_enlarged_image_and_is_rebuilt_from_its_file(
    size, small_mepf, monkeypatch
):
    few = small_mepf().public
    monkeypatch.setattr("sfumato.methods.mepf.embedding.public_images", lambda *_: few)
    method = small_mepf(encoder_size=size, public=None, seed_public=1)
    joint = JointEmbedding(method, SPEC)
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 28, 28), dtype=np.uint8)
    labeller = joint.targets(noiseless(joint, images, np.arange(12) % 3)).labeller
    arrays = {name: torch.from_numpy(array) for name, array in labeller.tensors().items()}
    again = Labeller.load(labeller.config(), arrays)
    pixels = torch.from_numpy(images)
    assert torch.equal(labeller(pixels), again(pixels))
    assert ("encoder_size" in labeller.config()) is (size > 0)
    expected = method.model_config(SPEC)["labeller"]
    assert expected.items() <= labeller.config().items()
    (query,) = method.queries(SPEC)
    named = query.to_dict().get("labeller_axes_digest")
    assert named == (PooledCoordinates.of(method.encoder, 32, 20).digest if size else None)
    if size:
        with pytest.raises(ValueError, match="weight for each axis"):
            Labeller.load(labeller.config(), {**arrays, "weights": arrays["weights"][1:]})


@pytest.mark.parametrize(
    "changes",
    [
        {"second_weight": 0.0},
        {"start_coefficients": 0},
        {"labeller_size": 0},
        {"compress": 16},
        {"encoder_size": 32},
        {"second_weight": 0.0, "start_coefficients": 0, "labeller_size": 0},
        {"second_weight": 0.0, "random_networks": 1},
    ],
)
def test_parts_can_be_left_out_and_the_rest_still_fits(changes, digits, small_mepf, tmp_path):
    method = small_mepf(**changes)
    curator = Curator(digits, Budget(10.0, 1e-5), state=tmp_path, quiet=True)
    images, _ = next(method.fit(curator).sample(10))
    assert images.shape == (10, 1, 28, 28)


def test_the_two_batch_loss_is_unbiased_where_one_batch_is_not():
    rng = np.random.default_rng(0)
    truth, wanted = rng.normal(size=20), rng.normal(size=20)
    exact = ((wanted - truth) ** 2).sum()
    plain, two = [], []
    for _ in range(4000):
        rows = truth + rng.normal(size=(4, 20))
        plain.append(((wanted - rows.mean(0)) ** 2).sum())
        two.append((wanted - rows[:2].mean(0)) @ (wanted - rows[2:].mean(0)))
    spread = np.std(two) / np.sqrt(len(two))
    assert abs(np.mean(two) - exact) < 4 * spread
    assert np.mean(plain) - exact > 4


@pytest.mark.parametrize(
    ("loss", "weight", "networks", "steps"),
    [("moving-average", 0.0, 0, 60), ("two-batch", 2.0, 0, 60), ("moving-average", 2.0, 1, 120)],
)
def test_training_moves_toward_the_embedding(loss, weight, networks, steps, digits, small_mepf):
    method = small_mepf(
        steps=steps,
        learning_rate=5e-3,
        loss=loss,
        class_weight=weight,
        labeller_size=0,
        random_networks=networks,
    )
    joint = JointEmbedding(method, digits.spec)
    images, labels = next(digits.batches(400))
    rows = joint.contribution(torch.from_numpy(images), torch.from_numpy(labels)).double()
    total = torch.zeros(10, rows.shape[1], dtype=torch.float64)
    total.index_add_(0, torch.from_numpy(labels), rows)
    targets = joint.targets(
        Embedding(total.numpy(), np.zeros(0), 1e-6, digits.spec, method.config())
    )
    matching = Matching(joint, targets, 0, Session(quiet=True))

    def gap():
        noise = torch.Generator().manual_seed(9)
        with torch.no_grad():
            images, _ = matching.generator(torch.arange(10).repeat(20), noise)
            found = [joint.moments(joint.features.activations(images))[0]]
            wanted = [targets.first]
            if joint.random:
                found, wanted = [*found, joint.random(images)], [*wanted, targets.random]
        means = (rows.view(20, 10, -1).mean(0) for rows in found)
        factors = [factor_apart(side, weight) for side in wanted]
        gaps = [a - b for a, b in zip(wanted, means, strict=True)]
        return [float(told_apart(*pair).square().sum()) for pair in zip(gaps, factors, strict=True)]

    before = gap()
    matching.run()
    assert all(after < 0.8 * at_first for after, at_first in zip(gap(), before, strict=True))


def test_a_released_embedding_retrains_without_a_curator(digits, small_mepf, tmp_path):
    curator = Curator(digits, Budget(10.0, 1e-5), state=tmp_path, quiet=True)
    model = small_mepf().fit(curator)
    path = tmp_path / "embedding.safetensors"
    model.embedding.save(path)
    public = small_mepf().public
    again = fit_embedding(path, public=public, session=Session(quiet=True))
    assert np.array_equal(next(model.sample(10))[0], next(again.sample(10))[0])
    other = fit_embedding(path, seed_public=1, steps=2, public=public, session=Session(quiet=True))
    assert not np.array_equal(next(model.sample(10))[0], next(other.sample(10))[0])


def test_an_embedding_of_the_first_version_is_matched_as_it_was_then(small_mepf):
    since = ("centred", "figures", "class_weight")
    old = {k: v for k, v in small_mepf().config().items() if k not in since}
    method = DPMEPF.from_config(old, small_mepf().public)
    assert (method.centred, method.figures, method.class_weight) == (False, False, 0)
    assert JointEmbedding(method, SPEC).features.means is None
    new = DPMEPF.from_config(small_mepf().config(), small_mepf().public)
    assert new.centred and new.figures and new.class_weight > 1 and new == small_mepf()


def test_other_public_images_are_noticed(digits, small_mepf, tmp_path):
    public = np.random.default_rng(0).integers(0, 256, (40, 1, 28, 28), dtype=np.uint8)
    curator = Curator(digits, Budget(10.0, 1e-5), state=tmp_path, quiet=True)
    model = small_mepf(public=public).fit(curator)
    path = tmp_path / "embedding.safetensors"
    model.embedding.save(path)
    with pytest.raises(UsageError, match="public"):
        fit_embedding(path, session=Session(quiet=True))
    assert fit_embedding(path, public=public, steps=1, session=Session(quiet=True))


def test_what_is_not_an_embedding_is_refused(tmp_path):
    path = tmp_path / "embedding.safetensors"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="not a released embedding"):
        fit_embedding(path)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"layers": ()},
        {"layers": (5, 3)},
        {"second_weight": -1.0},
        {"moving_average": 1.0},
        {"count_weight": 0.0},
        {"encoder_size": 31},
    ],
)
def test_a_value_outside_its_rule_is_named(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        DPMEPF(**bad)
