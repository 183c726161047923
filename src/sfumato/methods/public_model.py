"""Public models: trained once on public images, and what private training may start from.

A file holds the tensors of a released model of its method, and a card that says what it learnt
from. Nothing in it is executed. That it saw no private image is its maker's word: nobody can check
it from the file. Here too is what methods note and check of public images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError, UsageError
from sfumato.features.shipped import CLASS_SPACE
from sfumato.methods.base import Method, Model, digest_of
from sfumato.methods.registry import STARTED, read_saved

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

KEY = "sfumato-public-model"
LABELS = "label.weight"
"""The tensor with a row for each class."""
UNLABELLED = "level.2.bias"
"""What a class's row is added to in a U-Net."""
CENTRES = "public-class-centres"
"""The tensor with the public classes' centres in a file."""


@dataclass(frozen=True)
class PublicModel:
    """A model that was trained on public images alone.

    Args:
        method: the name of its method.
        model: what was trained.
        card: source, licence, SHA-256 of the data and settings, as plain JSON values.
        centres: float32 ``[P, width]`` of the public classes, as
            :func:`sfumato.features.public_classes.class_centres` finds them; None without classes.
        digest: SHA-256 of its file.
    """

    method: str
    model: Model
    card: Mapping[str, Any]
    centres: NDArray[np.float32] | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", hashlib.sha256(self.to_bytes()).hexdigest())

    def to_bytes(self) -> bytes:
        """The content of its file: safetensors with the card as metadata."""
        facts = {"method": self.method, "spec": asdict(self.model.spec)}
        facts |= {"config": self.model.config(), "card": dict(self.card)}
        tensors = {name: np.ascontiguousarray(v) for name, v in self.model.tensors().items()}
        if self.centres is not None:
            tensors[CENTRES] = np.ascontiguousarray(self.centres)
        return save(tensors, {KEY: json.dumps(facts, sort_keys=True)})

    @classmethod
    def read(cls, path: Path) -> PublicModel:
        """Read a file that ``sfumato pretrain`` wrote.

        Raises:
            UsageError: the file is missing or is no public model.
        """
        try:
            facts, model = read_saved(path, KEY)
            if not isinstance(model, Model):
                raise TypeError("not a model of images")
            centres = _centres(path, len(model.spec.classes))
            card, digest = dict(facts["card"]), hashlib.sha256(path.read_bytes()).hexdigest()
        except (DataError, OSError, LookupError, TypeError, ValueError) as error:
            raise UsageError(
                f"public_model={path} is no public model. Make one with sfumato pretrain."
            ) from error
        return cls(facts["method"], model, card, centres, digest)

    def check(self, method: str, spec: PublicSpec) -> None:
        """Raise UsageError unless ``method`` may start from it for images of ``spec``."""
        wanted = STARTED.get(method, method)
        if self.method != wanted:
            raise UsageError(
                f"public_model is one of {self.method}, which {method} cannot start from. Make one "
                f"of {wanted} with sfumato pretrain."
            )
        own = self.model.spec
        if (own.height, own.width, own.channels) != (spec.height, spec.width, spec.channels):
            raise UsageError(
                f"public_model makes images of {own.height}x{own.width} pixels in {own.channels} "
                f"channels, but the private images have {spec.height}x{spec.width} in "
                f"{spec.channels}. Make one of that form with sfumato pretrain: image_size="
                f"{spec.height}, channels={spec.channels}."
            )

    def settings(self) -> dict[str, Any]:
        """The settings of its method that say what its network is."""
        config = self.model.config()
        named = {name: config[name] for name in ("width", "parameterisation") if name in config}
        return {**config.get("shape", {}), **named}

    def label_rows(self) -> Tensor | None:
        """A denoiser's rows float32 ``[P + 1, width]``: its public classes, then no class."""
        from sfumato.methods.saved_arrays import tensors_below

        return tensors_below(self.model.tensors(), "network").get(LABELS)

    def start(self, network: nn.Module, prefix: str) -> None:
        """Give ``network`` the weights below ``prefix``.

        Public classes are not the private ones: each private class starts as what the model knows
        as no class, or as the mean of its classes where it knows none such.

        Raises:
            UsageError: they are of another form.
        """
        from sfumato.methods.saved_arrays import tensors_below
        from sfumato.networks import UNet

        weights, known = network.state_dict(), tensors_below(self.model.tensors(), prefix)
        table = known.pop(LABELS, None)
        if table is not None:
            row = table[-1] if isinstance(network, UNet) else table.mean(dim=0)
            if LABELS in weights:
                known[LABELS] = row.repeat(len(weights[LABELS]), 1)
            elif UNLABELLED in known:
                known[UNLABELLED] = known[UNLABELLED] + row
        elif LABELS in weights:
            known[LABELS] = weights[LABELS].new_zeros(weights[LABELS].shape)
        if _shapes(weights) != _shapes(known):
            raise UsageError(
                f"{self.method}: the public model has another network than these settings make. "
                "Leave out the settings of the network: they come with the model."
            )
        network.load_state_dict(known)


def note_digests(method: Method) -> None:
    """Note in a configuration the digests of the public images and the public model it was given.

    A digest that is stated without its images stays: the configuration was read from a file.
    """
    given: Any = method
    if given.public is not None and not given.public_digest:
        object.__setattr__(given, "public_digest", digest_of(given.public))
    if getattr(given, "public_model", None) is not None:
        object.__setattr__(given, "public_model_digest", given.public_model.digest)


def check_form(images: NDArray[np.uint8], method: str, spec: PublicSpec, fewest: int) -> None:
    """Raise UsageError unless there are ``fewest`` public images or more, of the private form."""
    shape = (spec.channels, spec.height, spec.width)
    if images.shape[1:] != shape or len(images) < fewest:
        raise UsageError(
            f"{method}: public images {images.shape} must be {fewest} or more of the private "
            f"images' form, {shape}. --public (public=) brings them to it."
        )


def check_at_hand(model: PublicModel | None, digest: str, method: str, spec: PublicSpec) -> None:
    """Raise UsageError unless the model that a configuration names by ``digest`` is here and fits.

    Raises:
        UsageError: the model is not at hand, of another method, or for other images.
    """
    if digest and (model is None or model.digest != digest):
        raise UsageError(
            f"{method}: the run starts from the public model of digest {digest[:12]}…. Pass it: "
            "--public-model MODEL (public_model=)."
        )
    if model is not None:
        model.check(method, spec)


def start_from(
    model: PublicModel | None,
    digest: str,
    method: str,
    spec: PublicSpec,
    network: nn.Module,
    prefix: str,
) -> None:
    """Let ``network`` start from a public model, where the configuration names one by ``digest``.

    Raises:
        UsageError: the model is not at hand, of another method, for other images, or of another
            network.
    """
    check_at_hand(model, digest, method, spec)
    if model is not None:
        model.start(network, prefix)


def _centres(path: Path, classes: int) -> NDArray[np.float32] | None:
    with safe_open(path, framework="numpy") as file:
        if CENTRES not in list(file.keys()):
            return None
        centres: NDArray[np.float32] = np.array(file.get_tensor(CENTRES))
    right = centres.shape == (classes, CLASS_SPACE.width) and centres.dtype == np.float32
    if not right or not np.isfinite(centres).all():
        raise ValueError("the centres are not those of the model's classes")
    return centres


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
