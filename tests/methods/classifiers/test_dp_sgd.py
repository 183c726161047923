"""DP-SGD's classifier learns from noisy gradients, or from votes, and its file is checked."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.data.arrays import load_labelled
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.classifiers.dp_sgd import DPSGD
from sfumato.methods.classifiers.tanh_cnn import TanhClassifier
from sfumato.networks import TanhCNN
from sfumato.privacy import Budget, Curator

SPEC = PublicSpec(28, 28, 1, ("a", "b"), declared_size=100)


@pytest.mark.parametrize("compress", [False, True])
def test_it_learns_where_the_budget_is_large(compress, all_digits, tmp_path):
    known = load_labelled(all_digits)
    method = DPSGD(steps=25, batch=60, width=3, compress=compress, learning_rate=1.0)
    budget = Budget(10.0, 1e-5)
    with Curator(all_digits, budget, state=tmp_path, quiet=True, insecure_seed=1) as curator:
        classifier = method.fit(curator)
    assert (classifier.predict(known.images[:300]) == known.labels[:300]).mean() > 0.3


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3), (64, 3)])
def test_the_network_takes_every_size_and_says_its_dimension(size, channels):
    spec = PublicSpec(size, size, channels, ("a", "b", "c"), declared_size=100)
    (query,) = DPSGD(batch=10, width=2).queries(spec)
    network = TanhCNN(channels, 3, 2)
    assert query.dimension == sum(parameter.numel() for parameter in network.parameters())
    images = np.zeros((2, channels, size, size), np.uint8)
    assert TanhClassifier(spec, network, 2).scores(images).shape == (2, 3)


def test_a_vote_has_the_norm_that_its_proof_is_about():
    (clipped,) = DPSGD(batch=10, clip_norm=0.3).queries(SPEC)
    (votes,) = DPSGD(batch=10, compress=True).queries(SPEC)
    assert clipped.bound == 0.3 and clipped.compress is None
    assert votes.compress.entries == votes.dimension // 10
    assert votes.bound == votes.compress.entries**0.5


def test_what_cannot_be_asked_is_refused():
    for bad in ({"steps": 0}, {"clip_norm": 0.0}, {"entries": 0}, {"width": 0}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            DPSGD(**bad)
    with pytest.raises(UsageError, match="must be declared"):
        DPSGD().queries(PublicSpec(28, 28, 1, ("a", "b")))


@pytest.mark.parametrize("wrong", ["missing", "other", "nan", "width"])
def test_weights_that_are_no_classifier_are_refused(wrong):
    tensors = TanhClassifier(SPEC, TanhCNN(1, 2, 2), 2).tensors()
    name = next(iter(tensors))
    if wrong == "missing":
        del tensors[name]
    elif wrong == "other":
        tensors["more"] = tensors[name]
    elif wrong == "nan":
        tensors[name] = tensors[name] * np.nan
    config = {"width": 3 if wrong == "width" else 2}
    with pytest.raises(ValueError, match=r"tensors|finite"):
        TanhClassifier.load(SPEC, config, tensors)
