"""Every method computes where it is told to: no tensor is left on the host by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.methods import method_names
from sfumato.methods.base import Model
from sfumato.privacy import Budget, Curator
from sfumato.privacy.answering import aggregate, integer_sums
from sfumato.privacy.gradients import per_example

BUDGET = Budget(epsilon=10.0, delta=1e-5)


@pytest.fixture(scope="module")
def fake():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "harness"))
        import fake_gpu

        yield fake_gpu


def test_the_fake_refuses_a_transfer_that_nobody_asked_for(fake):
    with fake.fake_gpu() as gpu:
        there, here = torch.ones(2, device=gpu), torch.ones(2)
        assert (
            isinstance(there, fake.OnGPU)
            and there.device == gpu
            and not isinstance(here, fake.OnGPU)
        )
        with pytest.raises(fake.ImplicitTransferError):
            there + here
        assert (there + here.to(gpu)).cpu().tolist() == [2.0, 2.0]
        layer = torch.nn.Linear(2, 1).to(gpu)
        layer(there).sum().backward()
        assert isinstance(layer.weight.grad, fake.OnGPU)


@pytest.mark.parametrize("name", method_names())
def test_no_tensor_of_a_method_stays_on_the_host(
    name, fake, methods, digits, tmp_path, monkeypatch
):
    # PyTorch's vmap does not look into subclasses of tensors.
    monkeypatch.delitem(per_example.ENGINES, "vmap")
    with fake.fake_gpu() as gpu:
        curator = Curator(digits, BUDGET, state=tmp_path, quiet=True, device=gpu)
        fitted = methods[name].fit(curator)
        if isinstance(fitted, Model):
            images, _ = next(iter(fitted.sample(4)))
        else:
            images = np.zeros((4, 1, 28, 28), np.uint8)
            assert fitted.predict(images).shape == (4,)
    assert images.dtype == np.uint8 and images.shape == (4, 1, 28, 28)


@pytest.mark.parametrize("name", ["moments", "dpdm", "dpaf", "pe"])
def test_a_full_memory_halves_the_micro_batch_and_changes_nothing_else(
    name, methods, digits, tmp_path, monkeypatch, capsys
):
    """A device that has room for a quarter of the images: the same run ends, and says so."""
    room = 16
    contributions, unit_gradients = integer_sums.contributions, per_example.unit_gradients
    rows = aggregate.feature_rows

    def check(images):
        if images > room:
            raise torch.OutOfMemoryError("12345 bytes of a record")

    def fits(query, images, labels, device):
        check(len(images))
        return contributions(query, images, labels, device)

    def gradients(network, loss, part, engine, images=None):
        check(images or per_example.IMAGES_AT_ONCE)
        return unit_gradients(network, loss, part, engine, images)

    def features(network, features, part, size):
        check(size)
        return rows(network, features, part, size)

    monkeypatch.setattr(integer_sums, "contributions", fits)
    monkeypatch.setattr(per_example, "unit_gradients", gradients)
    monkeypatch.setattr(aggregate, "feature_rows", features)
    with Curator(digits, BUDGET, state=tmp_path) as curator:
        methods[name].fit(curator)
    said = capsys.readouterr().err
    assert "12345" not in said
    # Networks are measured on public images first, which settles their micro-batch.
    assert name in ("dpdm", "dpaf") or "going on with at most 16 images at once" in said
