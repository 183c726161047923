"""Feature extractors for fidelity scores, and the features they give, kept by digest.

Every extractor takes uint8 images of three channels; grey images are repeated to three channels
first, whatever the extractor. Names and weights digests stand beside every score, because scores
under different extractors cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from sfumato.devices import resolve_device
from sfumato.errors import UsageError
from sfumato.evaluation.cache import array_digest, key, write_atomically
from sfumato.evaluation.inception import load_inception
from sfumato.features.encoder import load_encoder
from sfumato.privacy import distributed
from sfumato.progress import Report

SHIPPED = "efficientnet-lite0"
GREY_RULE = "grey images are repeated to three channels"


@dataclass(frozen=True)
class Extractor:
    """A frozen public network: uint8 ``[b, 3, h, w]`` to features ``[b, d]``, row by row."""

    name: str
    digest: str
    """SHA-256 of the weights."""
    features: Callable[[Tensor], Tensor]
    batch_size: int
    device: torch.device


def load_extractor(name: str = SHIPPED, device: torch.device | None = None) -> Extractor:
    """Load ``efficientnet-lite0`` (shipped), ``inception:PATH``, ``torchvision:M`` or ``timm:M``.

    The last two need the extra ``encoders`` and download the library's default weights. It computes
    on ``device``, by default a GPU where there is one.

    Raises:
        UsageError: the name is not known, or its library or weights are missing.
        DataError: the Inception file cannot be used.
    """
    device = device or resolve_device()
    kind, _, rest = name.partition(":")
    if name == SHIPPED:
        encoder = load_encoder().to(device)
        features = partial(_pooled, encoder.pooled)
        return Extractor(f"{SHIPPED}, pooled", encoder.digest, features, 250, device)
    if kind == "inception" and rest:
        network = load_inception(Path(rest)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        digest = sha256(Path(rest).read_bytes()).hexdigest()
        return Extractor("inception-v3-2015-12-05, pool 2048", digest, network, 50, device)
    if kind in ("torchvision", "timm") and rest:
        model, transform = (_torchvision if kind == "torchvision" else _timm)(rest)
        model = model.to(device).eval().requires_grad_(False)
        state = model.state_dict()
        digest = array_digest(*(state[layer].cpu().numpy() for layer in sorted(state)))
        features = partial(_transformed, model, transform)
        return Extractor(name, digest, features, 50, device)
    raise UsageError(
        f"extractor={name!r} is not known. Use {SHIPPED!r}, 'inception:PATH', 'torchvision:MODEL' "
        "or 'timm:MODEL'."
    )


def _pooled(pooled: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return pooled(images.float() / 255)


def _transformed(
    model: Callable[[Tensor], Tensor], transform: Callable[[Tensor], Tensor], images: Tensor
) -> Tensor:
    return model(transform(images)).flatten(1)


def _optional(module: str) -> Any:
    """Import a module of the extra ``encoders``."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            f"{module} cannot be imported ({error}). "
            "Install it with: pip install 'sfumato[encoders]'"
        ) from error


def _torchvision(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A torchvision model whose last linear layer is taken off, and its own preprocessing."""
    models = _optional("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        raise UsageError(f"torchvision model {name!r} is not known: {error}") from error
    try:
        model = models.get_model(name, weights=weights)
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"torchvision model {name!r}: its weights cannot be loaded ({error}). Without a "
            f"network, fetch {weights.url} elsewhere and put it into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}."
        ) from error
    linear = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        model.set_submodule(linear[-1], nn.Identity())
    return model, weights.transforms()


def _timm(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """A timm model without its classifier, and resizing and scaling as its weights ask."""
    timm = _optional("timm")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"timm model {name!r} cannot be loaded: {error}. If it exists and there is no network, "
            f"call timm.create_model({name!r}, pretrained=True) on a machine with one, and copy "
            "Hugging Face's cache from there ($HF_HOME, by default ~/.cache/huggingface)."
        ) from error
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[part])[:, None, None] for part in ("mean", "std"))

    def transform(images: Tensor) -> Tensor:
        resized = nn.functional.interpolate(
            images.float() / 255, size=config["input_size"][1:], mode="bicubic", antialias=True
        )
        return (resized.clamp(0, 1) - mean.to(images.device)) / std.to(images.device)

    return model, transform


def extract(
    extractor: Extractor,
    images: UInt8[np.ndarray, "n c h w"],
    cache: Path | None = None,
    report: Report = lambda share: None,
) -> Float32[np.ndarray, "n d"]:
    """Features of ``images`` in order, read from ``cache`` or, once computed, kept there.

    Ranks share the work. Rank 0 has the features, the others none: ``[0, 0]``.
    """
    path = None
    if cache is not None:
        name = key(array_digest(images), extractor.name, extractor.digest)
        path = cache / "features" / f"{name}.npy"
    size, none = extractor.batch_size, np.zeros((0, 0), np.float32)
    known = np.load(path, allow_pickle=False) if path and path.exists() else none
    if distributed.from_first(known.size > 0):
        return known

    def one(number: int) -> np.ndarray:
        batch = torch.from_numpy(images[number * size : (number + 1) * size])
        with torch.no_grad():
            coloured = batch.to(extractor.device).expand(-1, 3, -1, -1)
            found: np.ndarray = extractor.features(coloured).float().cpu().numpy()
        report(min(1.0, (number * size + len(batch)) / len(images)))
        return found

    parts = list(distributed.in_turns(-(-len(images) // size), one))
    if not distributed.is_first():
        return none
    features = np.concatenate(parts)
    if path is not None:
        write_atomically(path, lambda file: np.save(file, features))
    return features
