"""DataLens: what its settings mean, and what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sfumato.choosing import make_method
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features.basis import dct_basis
from sfumato.methods import DataLens, load_model
from sfumato.methods.datalens.student import basis_of, direction, recipe
from sfumato.methods.datalens.teachers import NearestTeachers, NetworkTeachers
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.networks.streams import ImageStreams
from sfumato.privacy import Budget, Curator
from sfumato.release import verify
from sfumato.synthesis import synthesize

SPEC = PublicSpec(28, 28, 1, ("a", "b", "c"), declared_size=1000)
BUDGET = Budget(epsilon=10.0, delta=1e-5)
NETWORK = {"kind": "network", "teachers": 6, "stochastic": True}
KINDS = [pytest.param({}, id="nearest"), pytest.param(NETWORK, id="network")]


@pytest.fixture
def save_often(monkeypatch):
    """Teachers' memories and the student are stored after every second step."""
    monkeypatch.setattr("sfumato.methods.training.SAVED_EVERY", 2)
    monkeypatch.setattr("sfumato.privacy.answering.vote.SAVED_EVERY", 2)


def fitted(method, source, state, stop=None):
    """The model and the curator's record; None if the run was killed before step ``stop``."""
    true = Curator.vote

    def killed(self, query, step, teachers, generated):
        if step == stop:
            raise KeyboardInterrupt
        return true(self, query, step, teachers, generated)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Curator, "vote", killed)
        try:
            with Curator(source, BUDGET, state=state, quiet=True, insecure_seed=1) as curator:
                model = method.fit(curator)
                record = curator.record()
                curator.close()
                return model, record
        except KeyboardInterrupt:
            return None


@pytest.mark.parametrize("kind", KINDS)
def test_classes_take_equal_parts_of_a_sample(small_datalens, digits, tmp_path, kind):
    model, record = fitted(small_datalens(**kind), digits, tmp_path)
    (first,) = model.sample(105, seed=1)
    (again,) = model.sample(105, seed=1)
    assert first[0].shape == (105, 1, 28, 28) and first[0].dtype == np.uint8
    assert sorted(np.bincount(first[1], minlength=10).tolist()) == [10] * 5 + [11] * 5
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    (event,) = record["events"]
    assert (event["query"], event["count"]) == ("vote", 3)


def test_checkpoints_hold_the_student_and_nothing_else(
    small_datalens, digits, tmp_path, save_often
):
    """No teacher: all tensors are the student's, Adam's two moments of them, and public draws."""
    method = small_datalens(**NETWORK)
    assert fitted(method, digits, tmp_path, stop=2) is None
    (path,) = tmp_path.rglob("checkpoint-training.safetensors")
    stored = {name: value.shape for name, value in load_file(path).items()}
    student = make_generator(digits.spec, method.width, 16)
    expected = {f"student.{name}": value.shape for name, value in student.state_dict().items()}
    for index, parameter in enumerate(student.parameters()):
        for field in ("exp_avg", "exp_avg_sq"):
            expected[f"optimizer.{index}.{field}"] = parameter.shape
        expected[f"optimizer.{index}.step"] = torch.Size([])
    expected |= {"step": torch.Size([]), "random": torch.Generator().get_state().shape}
    assert stored == expected


def test_a_release_verifies_and_keeps_the_student_and_its_codes(small_datalens, tmp_path):
    release = synthesize(
        "digits",
        epsilon=10.0,
        declared_size=1500,
        method=small_datalens(**NETWORK),
        samples=20,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    verdict = verify(release)
    assert verdict.method == "datalens"
    for relation, claimed in verdict.epsilon_by_relation.items():
        assert verdict.recomputed[relation] == pytest.approx(claimed, rel=1e-3)
    model = load_model(release / "model.safetensors")
    weights = {f"generator.{name}" for name in make_generator(model.spec, 4, 16).state_dict()}
    assert set(model.tensors()) == {*weights, "codes", "counts"}
    left = {path.name for path in (tmp_path / "state").rglob("*") if path.is_file()}
    assert not [name for name in left if name.startswith("memory-") or name == "key"]


def test_blended_codes_lie_between_two_of_their_class(small_datalens, digits, tmp_path):
    model, _ = fitted(small_datalens(blend=0.5), digits, tmp_path)
    labels, code_labels = torch.arange(200) % 10, torch.arange(20) % 10
    codes = model._blended(model.codes, labels, ImageStreams(0, range(200)))
    for code, label in zip(codes, labels, strict=True):
        first, second = model.codes[code_labels == label]
        share = torch.dot(code - first, second - first) / (second - first).square().sum()
        assert -1e-5 <= share <= 1 + 1e-5
        torch.testing.assert_close(code, torch.lerp(first, second, share))
    fixed = replace(model, blend=0.0)
    codes = fixed._blended(model.codes, labels, ImageStreams(0, range(200)))
    assert all(bool((code == model.codes).all(dim=1).any()) for code in codes)


def test_what_version_0_1_released_is_read(small_datalens, digits, tmp_path):
    model, _ = fitted(small_datalens(), digits, tmp_path)
    tensors = {name.removeprefix("generator."): value for name, value in model.tensors().items()}
    tensors["code_labels"] = np.arange(len(tensors["codes"])) % 10
    del tensors["counts"]
    old = GeneratorModel.load(model.spec, {"width": 4, "blend": 0.5}, tensors)
    for ours, theirs in zip(next(model.sample(12)), next(old.sample(12)), strict=True):
        assert np.array_equal(ours, theirs)
    tensors["code_labels"] = tensors["code_labels"][::-1].copy()
    with pytest.raises(ValueError, match="take turns"):
        GeneratorModel.load(model.spec, {"width": 4, "blend": 0.5}, tensors)


def test_directions_follow_the_noisy_sums_within_one(small_datalens):
    """Images [6, 10]: a nearest teacher speaks of few of them, a network of all."""
    total = torch.tensor([-400.0, -30.0, 0.0, 3.0, 20.0, 21.0, 400.0]).repeat(9)[:60]
    near = direction(small_datalens(teachers=60), total, SPEC)
    assert near.shape == (6, 10)
    torch.testing.assert_close(near.flatten(), (total / 10).clamp(-1, 1))
    every = direction(small_datalens(**{**NETWORK, "teachers": 60}), total, SPEC)
    torch.testing.assert_close(every.flatten(), (total / 60).clamp(-1, 1))


def test_a_threshold_leaves_signs_of_large_sums(small_datalens):
    total = torch.tensor([-31.0, -30.0, 0.0, 29.0, 30.0, 31.0]).repeat(10)
    moves = direction(small_datalens(teachers=60, threshold=0.5), total, SPEC).flatten()
    assert moves.tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0, 1.0] * 10
    moves = direction(small_datalens(teachers=60, threshold=0.0), total, SPEC).flatten()
    assert torch.equal(moves, total.sign())


def test_votes_move_the_student_to_the_records(small_datalens, all_digits, tmp_path):
    """With next to no noise images of a class come to lie nearer to its mean than others do."""
    method = small_datalens(
        teachers=1500, entries=64, dimension=64, steps=10, student_steps=15, width=8
    )
    rich = Budget(epsilon=1e4, delta=1e-5)
    with Curator(all_digits, rich, state=tmp_path, quiet=True) as curator:
        model = method.fit(curator)
        curator.close()
    ((images, labels),) = model.sample(100)
    real, names = next(all_digits.batches(2000))
    means = np.stack([real[names == digit].mean(axis=0) for digit in range(10)])
    far = np.square(images[:, None].astype(float) - means).sum(axis=(2, 3, 4))
    assert (far.argmin(axis=1) == labels).mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "teachers"),
    [({}, NearestTeachers), ({"kind": "network"}, NetworkTeachers)],
)
def test_the_query_says_what_is_voted_on(changes, teachers):
    method = DataLens(**changes)
    (query,) = method.queries(SPEC)
    assert (query.dimension, query.entries, query.teachers) == (3 * 20 * 64, 24, 1000)
    assert (query.steps, query.parts, query.stochastic) == (60, 1, False)
    assert query.to_dict()["kind"] == method.kind
    assert isinstance(recipe(method, SPEC), teachers)


def test_votes_of_images_share_the_entries():
    method = DataLens(kind="network", vote="image", entries=120, images_per_class=4)
    (query,) = method.queries(SPEC)
    assert (query.entries, query.parts) == (120, 12)


@pytest.mark.parametrize("coordinates", ["cosine", "random"])
def test_a_basis_is_orthonormal_and_public(coordinates):
    method = DataLens(coordinates=coordinates, dimension=20)
    basis = basis_of(method, SPEC)
    torch.testing.assert_close(basis @ basis.T, torch.eye(20), atol=1e-5, rtol=0.0)
    assert torch.equal(basis, basis_of(DataLens(coordinates=coordinates, dimension=20), SPEC))
    if coordinates == "cosine":
        assert np.array_equal(basis.numpy(), dct_basis(SPEC, 20))


def test_pixels_have_no_basis_and_as_many_coordinates_as_there_are():
    method = DataLens(coordinates="pixels")
    assert basis_of(method, SPEC) is None
    assert method.queries(SPEC)[0].dimension == 3 * 20 * 784


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": 0},
        {"kind": "forest"},
        {"steps": 0},
        {"images_per_class": 0},
        {"entries": 0},
        {"coordinates": "wavelets"},
        {"dimension": 0},
        {"vote": "pixel"},
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"step_size": 0.0},
        {"student_steps": 0},
        {"student_rate": 0.0},
        {"width": 6},
        {"blend": 1.5},
    ],
)
def test_a_value_outside_its_rule_is_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(UsageError, match=f"datalens: .*{name}={value!r}"):
        make_method("datalens", SPEC, changes)


def test_nearest_teachers_have_no_vote_for_each_image():
    """They speak of a few images each; refused before anything is charged."""
    with pytest.raises(UsageError, match="vote='image'"):
        DataLens(vote="image")


def test_entries_that_images_cannot_share_are_refused():
    with pytest.raises(UsageError, match=r"entries=25.*parts=60"):
        DataLens(kind="network", vote="image", entries=25).queries(SPEC)


def test_the_number_of_teachers_is_public():
    unknown = PublicSpec(28, 28, 1, ("a",))
    with pytest.raises(UsageError, match=r"option teachers.*--declared-size"):
        DataLens().queries(unknown)
    assert DataLens(teachers=7).queries(unknown)[0].teachers == 7


def test_presets():
    assert make_method("datalens", SPEC, preset="cpu") == DataLens()
    paper = make_method("datalens", SPEC, preset="paper")
    (query,) = paper.queries(SPEC)
    assert (query.teachers, query.parts, query.entries // query.parts) == (4000, 9, 200)
    assert (paper.kind, paper.vote, paper.coordinates) == ("network", "image", "pixels")
    with pytest.raises(UsageError, match="preset='gpu'"):
        make_method("datalens", SPEC, preset="gpu")


def test_configuration_is_json_and_makes_the_same_method(small_datalens):
    assert DataLens(**json.loads(json.dumps(small_datalens().config()))) == small_datalens()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_colour_and_larger_images_have_a_plan(small_datalens, size, kind):
    spec = PublicSpec(size, size, 3, ("a", "b"), declared_size=1000)
    method = small_datalens(**kind)
    (query,) = method.queries(spec)
    assert query.dimension == 2 * 2 * 10
    assert "minutes" in method.estimate(spec)["training_time"]
