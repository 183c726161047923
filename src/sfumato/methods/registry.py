"""Which methods there are: one line each, imported when first used.

Other packages add methods by an entry point of the group ``sfumato.methods``, whose name is the
method's and whose value is its class; ``docs/adding-a-method.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import DataError, UsageError

if TYPE_CHECKING:
    from sfumato.methods.base import Fitted, Method, Model

GROUP = "sfumato.methods"

IMAGES = {
    "mepf": "sfumato.methods.mepf.method:DPMEPF",
    "moments": "sfumato.methods.moments.method:Moments",
    "dpdm": "sfumato.methods.dpdm.method:DPDM",
    "dpgan": "sfumato.methods.dpgan.method:DPGAN",
    "dpaf": "sfumato.methods.dpaf.method:DPAF",
    "datalens": "sfumato.methods.datalens.method:DataLens",
    "merf": "sfumato.methods.merf:DPMERF",
    "ntk": "sfumato.methods.ntk:DPNTK",
    "pe": "sfumato.methods.pe.method:PrivateEvolution",
    "guided": "sfumato.methods.guided.method:Guided",
}
CLASSIFIERS = {
    "dp-sgd": "sfumato.methods.classifiers.dp_sgd:DPSGD",
    "least-squares": "sfumato.methods.classifiers.least_squares:LeastSquares",
}
BUILT_IN = {**IMAGES, **CLASSIFIERS}
"""Every method that ships with sfumato, by what it releases."""

PRETRAINED = ("dpdm", "mepf")
"""The methods whose model ``sfumato pretrain`` trains."""

STARTED = {"dpdm": "dpdm", "mepf": "mepf", "guided": "dpdm", "dpaf": "mepf"}
"""The methods that can start from a public model, and of which method that must be."""

WITHOUT_PUBLIC = {"public_steps": 0}
"""Settings that are refused without the public images they need."""


@cache
def _known() -> Mapping[str, EntryPoint]:
    ours = [EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()]
    # The names that ship with sfumato come last: no other package can put itself in their place.
    return {entry.name: entry for entry in [*entry_points(group=GROUP), *ours]}


def method_names(built_in: Iterable[str] = BUILT_IN) -> list[str]:
    """The names of all methods, or of ``built_in`` and other packages'; imports none of them."""
    return [*built_in, *sorted(set(_known()) - set(BUILT_IN))]


def find_method(name: str) -> type[Method]:
    """The method of a name.

    Raises:
        UsageError: there is none, or the package that it is from cannot be used.
    """
    if name not in _known():
        raise UsageError(f"method={name!r} must be one of {', '.join(method_names())}.")
    entry = _known()[name]
    if name in BUILT_IN:
        method: type[Method] = entry.load()
        return method
    from sfumato.methods.base import Method

    try:
        found = entry.load()
    except Exception as error:
        raise UsageError(
            f"method={name!r}: {entry.value} of another package fails to import "
            f"({type(error).__name__}: {error}). Mend or remove that package."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method) and found.name == name):
        raise UsageError(
            f"method={name!r}: {entry.value} of another package is no class below "
            f"sfumato.methods.base.Method with name = {name!r}."
        )
    return found


def configured(name: str, config: Mapping[str, Any]) -> Method:
    """The method that states ``config``, without the public images that it learnt from.

    Its queries and the form of its model are the same. Raises TypeError, ValueError or UsageError
    if no such method states it.
    """
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
    }
    return find_method(name)(
        **{key: WITHOUT_PUBLIC.get(key, value) for key, value in values.items()}
    )


def load_model(path: Path) -> Model:
    """Read the released ``model.safetensors`` of a method that makes images.

    Raises:
        DataError: the file is missing or is not a released model.
        UsageError: it is a released classifier.
    """
    from sfumato.methods.base import Model

    found = load_fitted(path)
    if not isinstance(found, Model):
        raise UsageError(
            f"{path} is a private classifier, which makes no images. Open its release with "
            "sfumato.load and call predict."
        )
    return found


def load_fitted(path: Path) -> Fitted:
    """Read a released ``model.safetensors``; nothing in it is executed.

    Raises:
        DataError: the file is missing or is not a released model.
    """
    return read_saved(path, "sfumato")[1]


def read_saved(path: Path, key: str) -> tuple[dict[str, Any], Fitted]:
    """Read what a method's model was saved as; nothing in it is executed.

    Returns:
        The facts that stand in the file's metadata under ``key``, and the model.

    Raises:
        DataError: the file is missing or holds no such model.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    from sfumato.data.spec import LARGEST_SIDE, PublicSpec

    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})[key])
            tensors: dict[str, Any] = {k: np.array(file.get_tensor(k)) for k in file.keys()}
        spec = PublicSpec.from_dict(facts["spec"])
        if spec.height != spec.width or spec.height > LARGEST_SIDE:
            raise ValueError("no method makes images of such a size")
        return facts, find_method(facts["method"]).model.load(spec, facts["config"], tensors)
    except (
        OSError,
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RuntimeError,  # also of a JSON that is nested too deep
        UsageError,
    ) as error:
        raise DataError(
            f"{path} is not a released model. Pass the model.safetensors of a release."
        ) from error
