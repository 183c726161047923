"""The methods: a file or a folder each, built on the curator's queries alone.

``registry`` lists them; their classes are imported from here by their own names, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfumato.methods.registry import (
    BUILT_IN,
    find_method,
    load_fitted,
    load_model,
    method_names,
)

if TYPE_CHECKING:
    from sfumato.methods.base import Batch, Classifier, Fitted, Method, Model, Option

_NAMES = {target.rpartition(":")[2]: name for name, target in BUILT_IN.items()}
_SHARED = ("Batch", "Classifier", "Fitted", "Method", "Model", "Option")

__all__ = [
    "Batch",
    "Classifier",
    "Fitted",
    "Method",
    "Model",
    "Option",
    "find_method",
    "load_fitted",
    "load_model",
    "method_names",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return find_method(_NAMES[name])
    if name in _SHARED:
        from sfumato.methods import base

        return getattr(base, name)
    raise AttributeError(f"module 'sfumato.methods' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_NAMES]
