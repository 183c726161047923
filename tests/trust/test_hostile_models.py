"""A model file that claims more than it holds is refused before memory is taken for the claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sfumato.errors import SfumatoError
from sfumato.methods import load_model

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[1] / "harness"))
    from fuzz_models import MODELS, datalens, dpaf, dpdm, dpgan, mepf

Facts = dict[str, Any]
Tensors = dict[str, Any]


def write(path: Path, facts: Facts, tensors: Tensors) -> Path:
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(arrays, path, metadata={"sfumato": json.dumps(facts)})
    return path


@pytest.mark.parametrize("made", MODELS)
def test_an_honest_model_draws(made: Callable[[], tuple[Facts, Tensors]], tmp_path: Path) -> None:
    facts, tensors = made()
    model = load_model(write(tmp_path / "model.safetensors", facts, tensors))
    assert sum(len(images) for images, _ in model.sample(3)) == 3


Change = Callable[[Facts, Tensors], Any]
CLAIMS: dict[str, tuple[Callable[[], tuple[Facts, Tensors]], Change]] = {
    "wide mepf": (mepf, lambda facts, _: facts["config"].update(width=4_000_000)),
    "width is a text": (mepf, lambda facts, _: facts["config"].update(width="16")),
    "huge image": (mepf, lambda facts, _: facts["spec"].update(height=10**6, width=10**6)),
    "no square": (mepf, lambda facts, _: facts["spec"].update(height=64)),
    "another class": (mepf, lambda facts, _: facts["spec"].update(classes=["a", "b", "c"])),
    "start of one class": (
        mepf,
        lambda _, tensors: tensors.update(
            {key: tensors[key][:1] for key in ("start.means", "start.roots")}
        ),
    ),
    "start of other axes": (
        mepf, lambda _, tensors: tensors.update({"start.roots": np.zeros((2, 5, 4), np.float32)}),
    ),
    "counts are not finite": (
        mepf, lambda _, tensors: tensors.update(counts=np.array([np.nan, 1.0])),
    ),
    "a tensor more": (
        mepf, lambda _, tensors: tensors.update({"refiner.more": np.zeros(3, np.float32)}),
    ),
    "wide dpdm": (dpdm, lambda facts, _: facts["config"]["shape"].update(width=4_000_000)),
    "many blocks": (dpdm, lambda facts, _: facts["config"]["shape"].update(blocks=10**9)),
    "many levels": (
        dpdm, lambda facts, _: facts["config"]["shape"].update(multipliers=[1] * 10**5),
    ),
    "wide patches": (dpdm, lambda facts, _: facts["config"]["shape"].update(patch=10**9)),
    "negative patches": (dpdm, lambda facts, _: facts["config"]["shape"].update(patch=-4)),
    "half a step": (dpdm, lambda facts, _: facts["config"].update(sampling_steps=2.5)),
    "endless steps": (dpdm, lambda facts, _: facts["config"].update(sampling_steps=10**9)),
    "no sampler": (dpdm, lambda facts, _: facts["config"].update(sampler="os.system")),
    "no parameterisation": (dpdm, lambda facts, _: facts["config"].update(parameterisation="x")),
    "one count": (dpdm, lambda _, tensors: tensors.update(counts=np.array([1.0]))),
    "wide dpgan": (dpgan, lambda facts, _: facts["config"].update(width=4_000_000)),
    "deep noise": (dpaf, lambda facts, _: facts["config"].update(latent=10**12)),
    "a generator without weights": (
        dpaf, lambda _, tensors: [tensors.pop(name) for name in list(tensors) if "blocks" in name],
    ),
    "wide student": (datalens, lambda facts, _: facts["config"].update(width=4_000_000)),
    "odd width": (datalens, lambda facts, _: facts["config"].update(width=6)),
    "blend beyond codes": (datalens, lambda facts, _: facts["config"].update(blend=1.5)),
    "blend is a text": (datalens, lambda facts, _: facts["config"].update(blend="half")),
    "no codes": (datalens, lambda _, tensors: tensors.pop("codes")),
    "codes of half a turn": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((7, 16), np.float32)),
    ),
    "codes of another length": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((6, 17), np.float32)),
    ),
    "whole codes": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((6, 16), np.int64)),
    ),
    "codes are not finite": (
        datalens, lambda _, tensors: tensors.update(codes=np.full((6, 16), np.inf, np.float32)),
    ),
    "labels out of turn": (
        datalens, lambda _, tensors: tensors.update(code_labels=np.array([0, 0, 0, 1, 1, 1])),
    ),
    "labels of many classes": (
        datalens, lambda _, tensors: tensors.update(code_labels=np.arange(6)),
    ),
    "a teacher's tensor more": (
        datalens, lambda _, tensors: tensors.update(teacher=np.zeros(3, np.float32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_false_claim_is_refused(claim: str, tmp_path: Path) -> None:
    made, change = CLAIMS[claim]
    facts, tensors = made()
    change(facts, tensors)
    with pytest.raises(SfumatoError):
        load_model(write(tmp_path / "model.safetensors", facts, tensors))


@pytest.mark.parametrize(
    ("made", "change"),
    [
        (mepf, lambda config: config.update(width=0)),
        (dpdm, lambda config: config["shape"].update(multipliers=[1, 0])),
        (dpgan, lambda config: config.update(latent=0)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_layer_of_size_0_is_refused_without_a_word(
    made: Callable[[], tuple[Facts, Tensors]], change: Callable[[Facts], Any], tmp_path: Path
) -> None:
    facts, tensors = made()
    change(facts["config"])
    with pytest.raises(SfumatoError):
        load_model(write(tmp_path / "model.safetensors", facts, tensors))
