"""What every method is: it says its queries, asks the curator once, and returns a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.privacy import Curator, Query

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 ``[b, channels, height, width]`` and labels int64 ``[b]``."""


@runtime_checkable
class Model(Protocol):
    """What a fit leaves behind: public, because it is computed from noisy answers alone."""

    @property
    def spec(self) -> PublicSpec:
        """Shape and classes of the images."""

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Draw ``count`` images in batches; the seed is public and repeats the draw."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's weights, by name."""

    def config(self) -> dict[str, Any]:
        """Everything else that :func:`sfumato.methods.load_model` needs, as plain JSON values."""


@runtime_checkable
class Method(Protocol):
    """A way to turn noisy answers into a model; it never holds a private image."""

    name: ClassVar[str]

    def config(self) -> dict[str, Any]:
        """The method's public configuration, as plain JSON values."""

    def queries(self, spec: PublicSpec) -> list[Query]:
        """What the method will ask about a data set of this public specification."""

    def fit(self, curator: Curator) -> Model:
        """Ask the curator the queries and learn a model from the answers."""


def check_rules(method: Method, rules: Mapping[str, bool]) -> None:
    """Raise UsageError for the first setting of ``method`` whose rule does not hold."""
    for name, holds in rules.items():
        if not holds:
            value = getattr(method, name)
            raise UsageError(
                f"{method.name}: {name}={value!r} is outside its rule; "
                f"see help({type(method).__name__})."
            )


def poisson_rate(method: str, batch: int, spec: PublicSpec) -> float:
    """The public probability with which a record is in a step's sample of expected size ``batch``.

    Raises:
        UsageError: the number of records is not declared, or is smaller than the batch.
    """
    if spec.declared_size is None:
        raise UsageError(
            f"{method}: the number of records must be declared (--declared-size N): a step draws "
            "each record with probability batch / N, and the true N is private."
        )
    if batch > spec.declared_size:
        raise UsageError(
            f"{method}: batch={batch} must not exceed declared_size={spec.declared_size}."
        )
    return batch / spec.declared_size


def labels_in_proportion(
    counts: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels int64 ``[samples]`` whose class shares follow noisy ``counts``, in random order.

    Shares are rounded to whole images by largest remainder; negative counts are taken as zero.
    """
    share = np.clip(counts, 0.0, None)
    share = share / share.sum() if share.sum() > 0 else np.full(len(counts), 1 / len(counts))
    whole = np.floor(share * samples).astype(np.int64)
    remainder = share * samples - whole
    whole[np.argsort(-remainder, kind="stable")[: samples - whole.sum()]] += 1
    labels: NDArray[np.int64] = np.repeat(np.arange(len(counts)), whole)
    return rng.permutation(labels)
