"""JSON that comes from strangers: bounded, unambiguous, and of an exact shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sfumato.errors import CertificateError

LARGEST = 2**24
DEEPEST = 20

Shape = Any
"""A type, ``object`` for any value, ``[shape]`` for a list, ``{key: shape}`` for an object that has
exactly these keys; one that ends in ``?`` may be missing. ``float`` takes integers too; no number
may be a truth value or infinite."""


def parse(data: bytes, name: str) -> dict[str, Any]:
    """Read one JSON object of at most 16 MiB and 20 levels.

    Raises:
        CertificateError: it is larger, deeper, no object, names a key twice, or is not JSON.
    """
    if len(data) > LARGEST:
        raise CertificateError(f"{name} is larger than {LARGEST} bytes; no release's is.")
    try:
        value = json.loads(
            data,
            object_pairs_hook=_once_each,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        raise CertificateError(
            f"{name} is not valid JSON. Ask whoever made the release for an undamaged copy."
        ) from None
    if not isinstance(value, dict):
        raise CertificateError(f"{name} must hold one JSON object.")
    if any(depth > DEEPEST for depth, _, _ in walk(value)):
        raise CertificateError(f"{name} is nested deeper than {DEEPEST} levels; no release's is.")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is named twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def walk(value: Any) -> Iterator[tuple[int, tuple[str, ...], Any]]:
    """Yield (depth, path of keys, value) for ``value`` and everything in it, without recursion."""
    stack: list[tuple[int, tuple[str, ...], Any]] = [(0, (), value)]
    while stack:
        depth, path, item = stack.pop()
        yield depth, path, item
        if depth > DEEPEST:
            continue
        if isinstance(item, Mapping):
            stack += [(depth + 1, (*path, str(key)), child) for key, child in item.items()]
        elif isinstance(item, list):
            stack += [(depth + 1, (*path, str(at)), child) for at, child in enumerate(item)]


def mismatches(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """Yield a sentence for each place where ``value`` is not of ``shape``."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} must be an object"
            return
        known = {key.removesuffix("?"): inner for key, inner in shape.items()}
        for key in sorted(shape.keys() - value.keys()):
            if not key.endswith("?"):
                yield f"{where}: {key} is missing"
        for key in sorted(value.keys() - known.keys()):
            yield f"{where}: {key[:80]!r} does not belong there"
        for key in known.keys() & value.keys():
            yield from mismatches(value[key], known[key], f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} must be a list"
            return
        for index, item in enumerate(value):
            yield from mismatches(item, shape[0], f"{where}[{index}]")
    elif not _is(value, shape):
        yield f"{where} must be a {shape.__name__}"


def _is(value: Any, kind: type) -> bool:
    if kind is object:
        return True
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, kind)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
