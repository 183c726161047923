"""While a GPU computes a sum, a thread samples its noise: of this answer, fresh, and of no other.

The GPU is ``tests/harness/fake_gpu.py``. A function that waits for the noise to begin shows that
the two run side by side, and does not depend on how fast either is.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.errors import SfumatoError
from sfumato.privacy import Budget, GradientQuery, SumQuery, make_plan
from sfumato.privacy.answering import base, integer_sums, sampled
from sfumato.privacy.noise.integer_gaussian import add_noise

BUDGET = Budget(1.0, 1e-5)
WIDTH = 3000
PATIENCE = 60.0


class Watched:
    """``add_noise`` that says when it began, in which thread, and what it sampled."""

    def __init__(self, monkeypatch):
        self.begun, self.threads, self.sampled = threading.Event(), [], []
        monkeypatch.setattr(base, "add_noise", self)

    def __call__(self, total, std, stream):
        self.begun.set()
        self.threads.append(threading.get_ident())
        self.sampled.append(add_noise(total, std, stream) - total)
        return total + self.sampled[-1]


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(integer_sums, "PROBED", 8)
    return Watched(monkeypatch)


def query(contribution):
    return SumQuery("q", contribution, WIDTH, 3.0)


def opened(make_curator, source, device, asked):
    curator = make_curator(source, device=device)
    curator.open_plan(make_plan({"name": "test"}, [asked], BUDGET, source.spec))
    return curator


def test_noise_is_sampled_while_the_gpu_computes(fake_gpu, make_curator, make_source, watched):
    def waits(images, labels):
        assert watched.begun.wait(PATIENCE)  # on a CPU noise begins when the sum is known
        return images.new_zeros((len(images), WIDTH), dtype=torch.float32)

    with fake_gpu.fake_gpu() as gpu:
        curator = opened(make_curator, make_source([(3, 0), (7, 1)]), gpu, query(waits))
        answer = curator.sum("q")
    assert watched.threads != [threading.get_ident()] and len(watched.threads) == 1
    # Six standard errors of 3000 draws are 7.7 %.
    assert np.std(answer.total) == pytest.approx(answer.noise_std, rel=0.077)


def test_on_a_cpu_noise_begins_when_the_sum_is_known(make_curator, make_source, watched):
    def early(images, labels):
        assert not watched.begun.is_set()
        return images.new_zeros((len(images), WIDTH), dtype=torch.float32)

    curator = opened(make_curator, make_source([(3, 0)]), torch.device("cpu"), query(early))
    curator.sum("q")
    assert watched.threads == [threading.get_ident()]


def test_noise_of_a_sum_that_failed_is_in_no_answer(fake_gpu, make_curator, make_source, watched):
    failing = [True]

    def fails_once(images, labels):
        if failing[0] and images[0].cpu().flatten().tolist() == [
            3,
            0,
            0,
            0,
        ]:  # not while it is probed
            raise ValueError("a record")
        return images.new_zeros((len(images), WIDTH), dtype=torch.float32)

    with fake_gpu.fake_gpu() as gpu:
        curator = opened(make_curator, make_source([(3, 0), (7, 1)]), gpu, query(fails_once))
        with pytest.raises(SfumatoError, match="ValueError"):
            curator.sum("q")
        failing[0] = False
        answer = curator.sum("q")
        again = curator.sum("q")
    first, second = watched.sampled
    assert np.array_equal(answer.total, again.total)
    steps = np.rint(answer.total.ravel() * 2**20 / 3.0).astype(np.int64)
    assert np.array_equal(steps, second.ravel())
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 6 / np.sqrt(WIDTH)


class Pixels:
    """A loss with a gradient for each of a linear layer's weights."""

    multiplicity = 1

    def draws(self, units, generator):
        return (torch.zeros(units, device=generator.device),)

    def __call__(self, network, images, labels, *draws):
        return network(images.flatten(1).float() / 255).sum(dim=1) + draws[0]


def test_each_step_has_noise_of_its_own(fake_gpu, make_curator, make_source, watched, monkeypatch):
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 4))
    asked = GradientQuery("g", 4 * 500, 1.0, 0.5, 3)
    source = make_source([(value, 0) for value in range(1, 7)])
    with fake_gpu.fake_gpu() as gpu:
        network = nn.Linear(4, 500, bias=False).to(gpu)
        curator = opened(make_curator, source, gpu, asked)
        answers = [curator.gradient("g", step, network, Pixels()).cpu() for step in range(3)]
    assert len(watched.sampled) == 3 and threading.get_ident() not in watched.threads
    correlated = np.corrcoef(np.stack([sampled.ravel() for sampled in watched.sampled]))
    assert np.abs(correlated - np.eye(3)).max() < 6 / np.sqrt(2000)
    for answer, sampled_noise in zip(answers, watched.sampled, strict=True):
        left = answer.numpy() * 2**20 - sampled_noise.ravel()
        assert np.linalg.norm(left) <= 6 * 2**20  # six units of norm 1 at most, whole steps
        assert np.array_equal(left, np.rint(left))
