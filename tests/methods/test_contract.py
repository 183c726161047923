"""What every method must do; a new one is tested on its first day by adding it to ``methods``."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import save_file

from sfumato.data.arrays import load_labelled
from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError, UsageError
from sfumato.methods import find_method, load_fitted, load_model, method_names
from sfumato.methods.base import Sampling, labels_in_proportion
from sfumato.methods.registry import CLASSIFIERS, IMAGES
from sfumato.privacy import Budget, Curator

BUDGET = Budget(epsilon=10.0, delta=1e-5)


def sampled(model, count, seed=0):
    parts = list(model.sample(count, seed))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def saved(model, method, folder):
    facts = {"method": method.name, "spec": asdict(model.spec), "config": model.config()}
    save_file(
        model.tensors(), folder / "model.safetensors", metadata={"sfumato": json.dumps(facts)}
    )
    return folder / "model.safetensors"


@pytest.fixture(params=method_names(IMAGES), scope="module")
def method(request, methods):
    return methods[request.param]


@pytest.fixture(params=["labelled", "unlabelled"], scope="module")
def source(request, digits, unlabelled):
    return digits if request.param == "labelled" else unlabelled


@pytest.fixture(scope="module")
def model(method, source, tmp_path_factory):
    return method.fit(Curator(source, BUDGET, state=tmp_path_factory.mktemp("run"), quiet=True))


def test_every_method_is_held_to_this_contract(methods):
    assert set(methods) == set(method_names())


def test_samples_have_the_public_shape_and_known_labels(model, source):
    images, labels = sampled(model, 30)
    assert images.shape == (30, 1, 28, 28) and images.dtype == np.uint8
    assert labels.shape == (30,) and labels.dtype == np.int64
    assert labels.min() >= 0 and labels.max() < max(len(source.spec.classes), 1)


def test_a_public_seed_repeats_the_draw_and_another_does_not(model):
    first, again, other = (sampled(model, 12, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_saved_model_draws_the_same(model, method, tmp_path):
    path = saved(model, method, tmp_path)
    for ours, theirs in zip(sampled(model, 12), sampled(load_model(path), 12), strict=True):
        assert np.array_equal(ours, theirs)


def test_an_image_depends_on_its_number_alone_and_is_made_again_alone(model):
    images, labels = sampled(model, 30, 5)
    numbers = np.array([1, 7, 8, 29])
    parts = zip(*model.redraw(Sampling(30, 5), numbers), strict=True)
    again, named = map(np.concatenate, parts)
    # In another batch the last bits of floats may differ, and so a rounded pixel.
    assert np.abs(again - images[numbers].astype(int)).mean() < 0.1
    known = model.labels_of(Sampling(30, 5))
    assert known is None or (
        np.array_equal(known, labels) and np.array_equal(named, known[numbers])
    )


def test_classes_are_sampled_as_asked_for(model, source):
    if not source.spec.classes:
        return
    ((_, labels),) = model.sampled(Sampling(12, 1, label=3))
    assert (labels == 3).all()
    ((_, labels),) = model.sampled(Sampling(30, 1, balance=True))
    assert (np.bincount(labels, minlength=10) == 3).all()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_the_same_when_saved_and_names_each_image_from_itself(
    name, methods, digits, tmp_path
):
    method = methods[name]
    found = method.fit(Curator(digits, BUDGET, state=tmp_path, quiet=True))
    path = saved(found, method, tmp_path)
    again, images = load_fitted(path), load_labelled(digits).images[:40]
    scores = found.scores(images)
    assert scores.shape == (40, 10) and scores.dtype == np.float32
    assert np.array_equal(scores, again.scores(images))
    assert np.array_equal(found.predict(images), scores.argmax(axis=1))
    # Last bits may depend on the batch, and nothing else may.
    one = np.concatenate([found.scores(image[None]) for image in images[:5]])
    assert np.allclose(one, scores[:5], atol=1e-4)
    losses = found.losses(images, np.arange(40) % 10)
    assert losses.shape == (40,) and (losses > 0).all()
    with pytest.raises(UsageError, match="makes no images"):
        load_model(path)
    for other in (images[:, :, :14], images.astype(np.float32)):
        with pytest.raises(UsageError, match="takes uint8"):
            found.predict(other)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_needs_classes(name, methods, unlabelled):
    with pytest.raises(UsageError, match="two classes or more"):
        methods[name].queries(unlabelled.spec)


@pytest.mark.parametrize("name", method_names())
def test_queries_read_no_data_and_configuration_is_json(name, methods, digits):
    method = methods[name]
    names = [query.name for query in method.queries(digits.spec)]
    assert names and len(set(names)) == len(names)
    assert json.loads(json.dumps(method.config())) == method.config()


@pytest.mark.parametrize("name", ["mepf", "moments"])
def test_an_estimate_of_reading_follows_the_declared_size(name, methods):
    small = methods[name].estimate(PublicSpec(28, 28, 1, ("a", "b"), declared_size=128))
    assert "for 128 images" in small["reading_time"]
    assert float(small["memory"].split()[0]) > 0


@pytest.mark.parametrize("name", ["mepf", "moments"])
def test_colour_has_queries(name):
    assert find_method(name)().queries(PublicSpec(32, 32, 3, ("a", "b")))[0].dimension > 0


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80\x04pickle"])
def test_what_is_not_a_model_is_refused(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a released model"):
        load_model(path)


@pytest.mark.parametrize("counts", [[3.0, 1.0], [-5.0, 2.0], [-1.0, -1.0], [1e9, 1.0, 0.0]])
def test_labels_follow_noisy_counts_to_the_image(counts):
    labels = labels_in_proportion(np.array(counts), 101, np.random.default_rng(0))
    share = np.clip(counts, 0, None)
    share = share / share.sum() if share.sum() else np.full(len(counts), 1 / len(counts))
    found = np.bincount(labels, minlength=len(counts))
    assert found.sum() == 101
    few = share * 101 < 1  # such a class has one image all the same, at the cost of the largest
    off = np.abs(found - share * 101)
    assert (found[few] == 1).all()
    assert off[~few].max() < 1 + few.sum()
    assert np.delete(off, [*np.flatnonzero(few), np.argmax(share)]).max(initial=0) < 1
