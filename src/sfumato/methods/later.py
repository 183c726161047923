"""Attributes that are imported when they are first read, so that a plan loads no PyTorch."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any


class Later:
    """An attribute of a class that is imported when it is first read.

    What a method asks is known without PyTorch, which takes seconds; what computes is not.

    Args:
        target: ``package.module:name``.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def __get__(self, instance: object, owner: type) -> Any:
        return EntryPoint("", self.target, "").load()


def later(target: str) -> Any:
    """:class:`Later`, of any type to whoever reads it."""
    return Later(target)
