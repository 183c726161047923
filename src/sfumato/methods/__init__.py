"""The methods: one file each, built on the curator's queries alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sfumato.data.spec import LARGEST_SIDE, PublicSpec
from sfumato.errors import DataError
from sfumato.methods.base import Batch, Method, Model
from sfumato.methods.datalens.method import DataLens
from sfumato.methods.datalens.student import StudentModel
from sfumato.methods.dpaf.method import DPAF
from sfumato.methods.dpdm.diffusion import DiffusionModel
from sfumato.methods.dpdm.method import DPDM
from sfumato.methods.dpgan.method import DPGAN, GANModel
from sfumato.methods.mepf.method import DPMEPF, MEPFModel, fit_embedding
from sfumato.methods.moments import MomentModel, Moments

METHODS: dict[str, type[Any]] = {
    "mepf": DPMEPF,
    "moments": Moments,
    "dpdm": DPDM,
    "dpgan": DPGAN,
    "dpaf": DPAF,
    "datalens": DataLens,
}
MODELS: dict[str, type[Any]] = {
    "mepf": MEPFModel,
    "moments": MomentModel,
    "dpdm": DiffusionModel,
    "dpgan": GANModel,
    "dpaf": GANModel,
    "datalens": StudentModel,
}


_MALFORMED = (
    OSError,
    SafetensorError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RuntimeError,  # also of a JSON that is nested too deep
)


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
        spec = PublicSpec.from_dict(facts["spec"])
        if spec.height != spec.width or spec.height > LARGEST_SIDE:
            raise ValueError("no method makes images of such a size")
        model: Model = MODELS[facts["method"]].load(spec, facts["config"], tensors)
    except _MALFORMED as error:
        raise DataError(
            f"{path} is not a released model. Pass the model.safetensors of a release."
        ) from error
    return model


__all__ = [
    "DPAF",
    "DPDM",
    "DPGAN",
    "DPMEPF",
    "METHODS",
    "Batch",
    "DataLens",
    "DiffusionModel",
    "GANModel",
    "MEPFModel",
    "Method",
    "Model",
    "MomentModel",
    "Moments",
    "fit_embedding",
    "load_model",
]
