"""Every method computes where it is told to: no tensor is left on the host by accident."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sfumato.data import load_labelled
from sfumato.methods import DPDM, method_names
from sfumato.methods.base import Model
from sfumato.methods.public_model import PublicModel
from sfumato.methods.training import Session
from sfumato.privacy import Budget, Curator
from sfumato.privacy.answering import integer_sums, sampled

BUDGET = Budget(epsilon=10.0, delta=1e-5)


def shorter(method):
    """The method with two steps over small samples, where it has steps."""
    fewer = {"steps": 2, "batch": 2, "warm_up_steps": 1}
    there = {field.name for field in fields(method)}
    return replace(method, **{name: value for name, value in fewer.items() if name in there})


def test_the_fake_refuses_a_transfer_that_nobody_asked_for(fake_gpu):
    with fake_gpu.fake_gpu() as gpu:
        there, here = torch.ones(2, device=gpu), torch.ones(2)
        assert (
            isinstance(there, fake_gpu.OnGPU)
            and there.device == gpu
            and not isinstance(here, fake_gpu.OnGPU)
        )
        with pytest.raises(fake_gpu.ImplicitTransferError):
            there + here
        assert (there + here.to(gpu)).cpu().tolist() == [2.0, 2.0]
        layer = torch.nn.Linear(2, 1).to(gpu)
        layer(there).sum().backward()
        assert isinstance(layer.weight.grad, fake_gpu.OnGPU)


@pytest.mark.parametrize("name", method_names())
def test_no_tensor_of_a_method_stays_on_the_host(
    name, fake_gpu, methods, digits, tmp_path, monkeypatch
):
    # Engines and batches are measured in tests of their own. PyTorch's vmap does not look into
    # subclasses of tensors.
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 16))
    monkeypatch.setattr(integer_sums, "BATCH", 32)
    monkeypatch.setattr(integer_sums, "PROBED", 32)
    monkeypatch.setattr(integer_sums, "ROUNDS", 1)
    with fake_gpu.fake_gpu() as gpu:
        curator = Curator(digits, BUDGET, state=tmp_path, quiet=True, device=gpu)
        fitted = shorter(methods[name]).fit(curator)
        if isinstance(fitted, Model):
            images, _ = next(iter(fitted.sample(4)))
        else:
            images = np.zeros((4, 1, 28, 28), np.uint8)
            assert fitted.predict(images).shape == (4,)
    assert images.dtype == np.uint8 and images.shape == (4, 1, 28, 28)


@pytest.mark.parametrize("name", ["dpdm", "guided"])
def test_a_run_that_starts_from_a_public_model_computes_where_it_is_told_to(
    name, fake_gpu, small_dpdm, small_guided, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 16))
    small, steps = {"width": 8, "blocks": 1, "patch": 4}, {"public_steps": 1, "sampling_steps": 2}
    few = load_labelled(digits)
    with fake_gpu.fake_gpu() as gpu:
        session = Session(quiet=True, device=gpu)
        batch = (few.images[:8], few.labels[:8])
        made = DPDM.pretrained(digits.spec, batch, {**small, **steps}, session)
        kind = small_dpdm if name == "dpdm" else small_guided
        method = shorter(kind(public_model=PublicModel("dpdm", made, {})))
        curator = Curator(digits, BUDGET, state=tmp_path, quiet=True, device=gpu)
        images, _ = next(iter(method.fit(curator).sample(4)))
    assert images.shape == (4, 1, 28, 28)


@pytest.mark.parametrize("name", ["moments", "pe"])
def test_a_pass_that_does_not_fit_is_begun_anew_with_half_its_batch(
    name, methods, digits, tmp_path, monkeypatch, capsys
):
    """A device that has room for eight images: the same run ends, and says so."""
    room = 8
    contributions = integer_sums.contributions

    def fits(query, images, labels, device):
        if len(images) > room:
            raise torch.OutOfMemoryError("12345 bytes of a record")
        return contributions(query, images, labels, device)

    monkeypatch.setattr(integer_sums, "contributions", fits)
    with Curator(digits, BUDGET, state=tmp_path) as curator:
        methods[name].fit(curator)
    said = capsys.readouterr().err
    assert "going on with at most 8 images at once" in said and "12345" not in said
