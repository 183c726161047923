"""The methods: one file each, built on the curator's queries alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError
from sfumato.methods.contract import Batch, Method, Model, plan_of
from sfumato.methods.diffusion import DiffusionModel
from sfumato.methods.dpdm import DPDM
from sfumato.methods.mepf import DPMEPF, MEPFModel, fit_embedding
from sfumato.methods.moments import MomentModel, Moments

METHODS: dict[str, type[Any]] = {"mepf": DPMEPF, "moments": Moments, "dpdm": DPDM}
MODELS: dict[str, type[Any]] = {
    "mepf": MEPFModel,
    "moments": MomentModel,
    "dpdm": DiffusionModel,
}


def load_model(path: Path) -> Model:
    """Read a released ``model.safetensors``; nothing in it is executed.

    Raises:
        DataError: the file is missing or is not a released model.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads((file.metadata() or {})["sfumato"])
            tensors: dict[str, NDArray[Any]] = {
                name: np.array(file.get_tensor(name)) for name in file.keys()
            }
        spec = PublicSpec(**{**facts["spec"], "classes": tuple(facts["spec"]["classes"])})
        model: Model = MODELS[facts["method"]].load(spec, facts["config"], tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a released model. Pass the model.safetensors of a release."
        ) from error
    return model


__all__ = [
    "DPDM",
    "DPMEPF",
    "METHODS",
    "Batch",
    "DiffusionModel",
    "MEPFModel",
    "Method",
    "Model",
    "MomentModel",
    "Moments",
    "fit_embedding",
    "load_model",
    "plan_of",
]
