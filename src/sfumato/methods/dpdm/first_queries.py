"""What DPDM asks before its gradients: votes for public classes, and the sum of a warm-up."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from sfumato.data.spec import PublicSpec
from sfumato.features.shipped import CLASS_SPACE, encoder_digest
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.moments.method import Moments
from sfumato.privacy.queries.nearest import NearestQuery
from sfumato.privacy.queries.sum import SumQuery

if TYPE_CHECKING:
    from torch import Tensor

WarmUp = Literal["none", "central", "moments", "mepf"]

VOTES = "public-classes"
"""The name of the query of votes."""

COUNT_WEIGHT = 0.1
GROUP_BITS = 4
"""A class has 2⁴ central images, one for each combination of signs of four low coefficients."""

MOMENTS, EMBEDDING = Moments(), DPMEPF(steps=1000)
"""The methods whose sum a warm-up may ask for."""


def votes_query(classes: int, public: int, relative_noise: float) -> NearestQuery:
    """Each record of ``classes`` private ones votes for one of ``public`` classes."""
    space = CLASS_SPACE
    about: dict[str, Any] = {"encoder": space.encoder, "encoder_digest": encoder_digest()}

    def features(images: Tensor) -> Tensor:
        from sfumato.devices import moved
        from sfumato.features import to_unit

        return moved(space.loaded(), images.device)(to_unit(images))

    return NearestQuery(
        VOTES,
        features,
        space.width,
        classes * public,
        relative_noise=relative_noise,
        describes=about | {"coordinates_digest": space.digest, "public_classes": public},
    )


def warm_query(warm_up: WarmUp, spec: PublicSpec, relative_noise: float) -> SumQuery:
    """The sum that images of a warm-up are sampled from."""
    if warm_up == "central":
        return _central(spec, relative_noise)
    (query,) = (MOMENTS if warm_up == "moments" else EMBEDDING).queries(spec)
    assert isinstance(query, SumQuery)
    return replace(query, relative_noise=relative_noise)


def _central(spec: PublicSpec, relative_noise: float) -> SumQuery:
    """Σ [w; image] in the block of its group, by class."""
    pixels = spec.channels * spec.height * spec.width

    @cache
    def signs() -> Tensor:
        import torch

        from sfumato.features.basis import dct_basis

        return torch.from_numpy(dct_basis(spec, 1 + GROUP_BITS)[1:])

    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        import torch

        flat = images.flatten(1).to(torch.float32) / 255
        bits = (flat @ signs().to(flat.device).T > 0).to(torch.int64)
        places = torch.arange(GROUP_BITS, device=flat.device)
        group = (bits * 2**places).sum(dim=1)
        ones = flat.new_full((len(images), 1), COUNT_WEIGHT * math.sqrt(pixels))
        row = torch.cat([ones, flat], dim=1)
        blocks = row.new_zeros(len(images), 2**GROUP_BITS, row.shape[1])
        blocks[torch.arange(len(images), device=flat.device), group] = row
        return blocks.flatten(1)

    return SumQuery(
        "central",
        contribution,
        2**GROUP_BITS * (1 + pixels),
        math.sqrt(pixels) * math.hypot(COUNT_WEIGHT, 0.5),
        by_class=True,
        nonnegative=True,
        relative_noise=relative_noise,
        describes={"groups": 2**GROUP_BITS, "count_weight": COUNT_WEIGHT},
    )
