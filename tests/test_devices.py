"""A device is found by its name, or refused in a sentence before anything is charged."""

from __future__ import annotations

import pytest
import torch

from sfumato.devices import CPU, device_of, moved, resolve_device, trains_in_bfloat16
from sfumato.errors import UsageError
from sfumato.synthesis import synthesize


def test_auto_takes_the_gpu_that_is_current_or_else_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device() == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(UsageError, match="2 CUDA devices, numbered from 0"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    "name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "", "mps:0"]
)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UsageError, match="device="):
        resolve_device(name)


def test_a_device_that_is_not_there_charges_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    state, out = tmp_path / "state", tmp_path / "release"
    with pytest.raises(UsageError, match="no GPU"):
        synthesize("digits", epsilon=1.0, method="moments", device="cuda", out=out, state=state)
    assert not out.exists() and not list(tmp_path.rglob("ledger*"))


def test_what_is_moved_in_inference_mode_can_still_be_trained_through():
    network = torch.nn.Linear(2, 1)
    with torch.inference_mode():
        moved(network, torch.device("meta"))
    assert device_of(network).type == "meta"
    assert not network.weight.is_inference()


@pytest.mark.parametrize(
    ("found", "fast"), [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)]
)
def test_plain_training_is_in_bfloat16_where_the_cpu_multiplies_in_it(
    found: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert trains_in_bfloat16(CPU) is fast
