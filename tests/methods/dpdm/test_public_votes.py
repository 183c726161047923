"""Public classes by private votes: who votes for what, what is chosen, and what starts from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sfumato.choosing import make_method
from sfumato.data import load_labelled, open_images
from sfumato.errors import UsageError
from sfumato.features.public_classes import class_centres, nearest_classes
from sfumato.methods import DPDM
from sfumato.methods.dpdm.public_votes import ChosenClasses, ChosenImages, shares_of
from sfumato.methods.public_model import CENTRES, PublicModel
from sfumato.methods.registry import configured
from sfumato.methods.training import Session
from sfumato.networks import UNet
from sfumato.privacy import Answer, Budget, Curator
from sfumato.privacy.answering import integer_sums
from sfumato.release import verify
from sfumato.synthesis import synthesize

BUDGET = Budget(epsilon=10.0, delta=1e-5)
NETWORK = {"width": 8, "blocks": 1, "patch": 4}
SHAPE = {**NETWORK, "multipliers": (1, 2)}


@pytest.fixture(scope="module")
def public():
    """150 digits, of ten public classes."""
    few = load_labelled(open_images("digits"))
    return few.images[:150], few.labels[:150]


@pytest.fixture(scope="module")
def learnt(public):
    """A tiny denoiser of them, with their centres."""
    spec = replace(open_images("digits").spec, declared_size=None)
    settings = {"public_steps": 2, "sampling_steps": 2, **NETWORK}
    model = DPDM.pretrained(spec, public, settings, Session(quiet=True))
    with torch.no_grad():
        model.denoiser.network.label.weight.normal_()
    return PublicModel("dpdm", model, {}, class_centres(*public, 10))


@pytest.fixture(scope="module")
def private(tmp_path_factory, public):
    """Other digits: the private class 0 holds zeros and ones, the class 1 holds sevens."""
    every = load_labelled(open_images("digits"))
    later = np.arange(len(every.labels)) >= len(public[0])
    chosen = np.flatnonzero(later & np.isin(every.labels, (0, 1, 7)))[:200]
    path = tmp_path_factory.mktemp("private") / "private.npz"
    labels = (every.labels[chosen] == 7).astype(np.int64)
    np.savez(path, images=every.images[chosen, 0], labels=labels)
    return open_images(path, classes=2, declared_size=200)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """No time is measured, and little is probed: tests of their own do."""
    engine = "sfumato.privacy.answering.sampled.engine_that_fits"
    monkeypatch.setattr(engine, lambda *_: ("layers", 64))
    for name, value in {"BATCH": 32, "PROBED": 32, "ROUNDS": 1}.items():
        monkeypatch.setattr(integer_sums, name, value)


def answered(votes, noise_std=1e-6):
    return Answer(np.asarray(votes, np.float64).reshape(1, -1), np.zeros(0), noise_std)


def test_the_largest_votes_are_kept_in_their_shares():
    votes = [[30, 0, 50, 20], [0, 0, 0, 9]]
    np.testing.assert_allclose(
        shares_of(answered(votes), 2, 2), [[0.375, 0, 0.625, 0], [0, 0, 0, 1]], atol=1e-5
    )
    assert (shares_of(answered(votes), 2, 9)[0] > 0).tolist() == [True, False, True, True]


def test_noise_alone_chooses_next_to_nothing_and_what_stands_out_is_chosen():
    random, trials = np.random.default_rng(0), 300
    noise = random.normal(scale=7.0, size=(trials, 200))
    rows = shares_of(answered(noise, 7.0), trials, 5).sum(axis=1)
    assert (rows > 0).mean() < 0.25  # about one in nine; without the threshold it is always one
    noise[:, 3] += 100
    chosen = shares_of(answered(noise, 7.0), trials, 5)
    assert (chosen[:, 3] > 0.8).all() and np.allclose(chosen.sum(axis=1), 1)


def test_each_record_votes_for_the_public_class_that_it_is_nearest_to(private, learnt, tmp_path):
    images, labels = load_labelled(private).images, load_labelled(private).labels
    nearest = nearest_classes(images, learnt.centres)
    expected = np.zeros((2, 10))
    np.add.at(expected, (labels, nearest), 1)
    assert expected[1, 7] > 0.6 * expected[1].sum() and expected[0, :2].sum() > 60
    method = DPDM(steps=1, batch=10, public_model=learnt, public_votes=10, **NETWORK)
    with Curator(private, Budget(1e4, 1e-5), state=tmp_path, quiet=True) as curator:
        curator.open(method)
        chosen = ChosenClasses.asked(curator, learnt.centres, 10)
    shares = expected / expected.sum(axis=1, keepdims=True)
    assert np.abs(chosen.shares - shares).max() < 0.03


def test_a_class_starts_as_the_public_classes_that_it_chose(learnt):
    public = learnt.model.denoiser.network
    x, level = torch.randn(2, 1, 28, 28), torch.randn(2)
    shares = np.zeros((3, 10))
    shares[0, 7], shares[1, [2, 5]] = 1, (0.25, 0.75)  # and noise hid what the third chose
    chosen = ChosenClasses(shares, learnt.centres)
    mixed = 0.25 * public.label.weight[2] + 0.75 * public.label.weight[5]
    private = UNet(28, 1, 3, **SHAPE)
    learnt.start(private, "network")
    chosen.start(private, learnt)
    torch.testing.assert_close(private.label.weight[1], mixed)
    for label, theirs in ((0, 7), (2, 10), (3, 10)):
        ours = private(x, level, torch.tensor([label, label]))
        torch.testing.assert_close(ours, public(x, level, torch.tensor([theirs, theirs])))
    without = UNet(28, 1, 0, **SHAPE)
    learnt.start(without, "network")
    ChosenClasses(shares[:1], learnt.centres).start(without, learnt)
    torch.testing.assert_close(without(x, level), public(x, level, torch.tensor([7, 7])))


def test_images_come_from_the_chosen_classes_under_the_name_of_who_chose_them():
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    nearest = np.arange(12) % 3  # no image is nearest to the fourth class
    shares = np.array([[0.25, 0, 0.75, 0], [0, 0, 0, 1.0], [0, 0.5, 0, 0.5]])
    drawn, labels = ChosenImages(images, nearest, shares).draw(
        4000, torch.Generator().manual_seed(0)
    )
    seen = drawn.flatten().numpy()
    assert set(seen[labels == 0] % 3) == {0, 2} and set(seen[labels == 2] % 3) == {1}
    assert not (labels == 1).any() and set(seen) == set(range(12))
    assert np.mean(seen[labels == 0] % 3 == 2) == pytest.approx(0.75, abs=0.05)
    assert float((labels == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    drawn, labels = ChosenImages(images, nearest, 0 * shares).draw(
        500, torch.Generator().manual_seed(0)
    )
    assert set(drawn.flatten().tolist()) == set(range(12)) and set(labels.tolist()) == {-1}


def test_votes_are_paid_for_and_verify_derives_them(private, learnt, public, tmp_path):
    method = DPDM(
        steps=2,
        batch=10,
        multiplicity=1,
        sampling_steps=2,
        public_model=learnt,
        public_votes=2,
        public=public[0],
        public_labels=public[1],
        public_steps=2,
        **NETWORK,
    )
    release = synthesize(
        private,
        epsilon=10.0,
        method=method,
        samples=4,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    assert [query.mechanism for query in method.queries(private.spec)] == ["nearest", "gradient"]
    assert verify(release, redraw=0).epsilon == pytest.approx(10.0, rel=1e-3)
    votes, _ = configured("dpdm", method.config()).queries(private.spec)
    assert votes.bins == 2 * 10 and votes == method.queries(private.spec)[0]
    assert replace(method, public_votes_noise=2.0).queries(private.spec)[0] != votes


def test_public_images_alone_are_chosen_from_too(private, public, tmp_path):
    for place, (image, label) in enumerate(zip(*public, strict=True)):
        if place < 40:
            folder = tmp_path / "public" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(folder / f"{place}.png")
    options = {"steps": 1, "batch": 10, "multiplicity": 1, "public_votes": 3, **NETWORK}
    method = make_method("dpdm", private.spec, options, public=tmp_path / "public", pretrain=2)
    assert method.public_classes == 10  # more than the private ones
    with Curator(private, BUDGET, state=tmp_path / "state", quiet=True) as curator:
        method.fit(curator)
        events = [event["query"] for event in curator.record()["events"]]
    assert events == ["nearest", "gradient"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "needs public classes"),
        ({"public": True}, "needs public classes"),  # no steps that would learn from them
        ({"public": True, "public_steps": 1, "public_conditional": True}, "Leave one out"),
        ({"public_classes": 7, "fit": True}, "needs public classes"),
        ({"public_votes": -1}, "public_votes=-1"),
        ({"public_votes_noise": 0.0}, "public_votes_noise"),
    ],
)
def test_votes_without_public_classes_are_refused(public, private, tmp_path, changes, words):
    changes, fit = dict(changes), changes.get("fit", False)
    changes.pop("fit", None)
    if changes.pop("public", False):
        changes |= {"public": public[0], "public_labels": public[1]}
    with pytest.raises(UsageError, match=words):
        method = DPDM(**{"public_votes": 2, "batch": 10, **NETWORK, **changes})
        assert fit
        with Curator(private, BUDGET, state=tmp_path, quiet=True) as curator:
            method.fit(curator)
    assert "charge" not in "".join(p.read_text() for p in tmp_path.glob("*/ledger.jsonl"))


def test_centres_lie_in_the_file_and_wrong_ones_are_refused(learnt, tmp_path):
    path, wrong = tmp_path / "right.model", tmp_path / "wrong.model"
    path.write_bytes(learnt.to_bytes())
    read = PublicModel.read(path)
    assert np.array_equal(read.centres, learnt.centres) and read.digest == learnt.digest
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    for centres in (arrays[CENTRES][:9], arrays[CENTRES] * np.float32(np.nan)):
        save_file({**arrays, CENTRES: np.ascontiguousarray(centres)}, wrong, metadata)
        with pytest.raises(UsageError, match="is no public model"):
            PublicModel.read(wrong)
