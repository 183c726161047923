from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.devices import CPU
from sfumato.networks import ImageStreams, normal


def test_numbers_of_a_seed_are_the_same_in_every_version() -> None:
    # If NumPy ever changes them, releases of before fail verification; see `_obstacle` there.
    streams = ImageStreams(7, [0, 41])
    expected = [[-0.5025, -2.0497], [-0.8238, -0.3418]]
    assert streams.normal(2).numpy() == pytest.approx(np.array(expected), abs=1e-4)
    assert streams.uniform(1).flatten().tolist() == pytest.approx([0.2039, 0.2550], abs=1e-4)
    assert streams.below(1000, 2).tolist() == [[53, 814], [383, 358]]


def test_a_stream_depends_on_seed_and_number_alone() -> None:
    together, alone = ImageStreams(3, range(5)), ImageStreams(3, [4])
    for _ in range(2):
        assert torch.equal(together.normal(2, 3)[4], alone.normal(2, 3)[0])
    assert torch.equal(together.of(np.array([4])).uniform(7), alone.uniform(7))
    assert not torch.equal(ImageStreams(3, [4]).normal(4), ImageStreams(4, [4]).normal(4))
    rows = ImageStreams(3, range(200)).normal(50)
    assert len({row.numpy().tobytes() for row in rows}) == 200
    assert abs(float(rows.mean())) < 0.05 and abs(float(rows.std()) - 1) < 0.05


def test_no_images_have_empty_numbers() -> None:
    none = ImageStreams(0, [])
    assert none.normal(2, 3).shape == (0, 2, 3) and none.below(5).shape == (0,)


def test_training_takes_its_numbers_from_one_generator() -> None:
    generator = torch.Generator(CPU).manual_seed(1)
    expected = torch.randn(3, 4, generator=torch.Generator(CPU).manual_seed(1))
    assert torch.equal(normal(generator, (3, 4)), expected)
    assert torch.equal(normal(ImageStreams(2, [8]), (1, 4)), ImageStreams(2, [8]).normal(4))
