"""TopAgg's vote: the k largest entries of a vector, replaced by their signs.

Wang et al., *DataLens*, CCS 2021, arXiv 2103.11109, Algorithm 1. A vote has at most k entries of +1
or -1 and zeros elsewhere, whatever the vector was, so its L2 norm is at most √k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_signs(rows: Tensor, k: int, uniform: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where the k largest entries of each row are, and their signs.

    Args:
        rows: float ``[u, d]``; a row that holds a NaN or an infinity votes nothing.
        k: entries kept of each row, at most d.
        uniform: float ``[u, k]`` in [0, 1), the randomness of stochastic signs: +1 with probability
            ½ + g / 2b, b being the row's largest magnitude; None takes signs as they are.

    Returns:
        int64 ``[u, k]`` of different indices a row, and int8 ``[u, k]`` in {-1, 0, 1}; 0 where the
        entry is 0.
    """
    sizes = rows.abs()
    largest = sizes.amax(dim=1, keepdim=True)  # NaN if there is one, else infinite
    index = sizes.topk(k, dim=1, sorted=False).indices
    kept = rows.gather(1, index)
    signs = kept.sign()
    if uniform is not None:
        chance = 0.5 + 0.5 * kept / largest.clamp(min=torch.finfo(rows.dtype).tiny)
        signs = torch.where(kept == 0, 0.0, torch.where(uniform < chance, 1.0, -1.0))
    return index, torch.where(torch.isfinite(largest), signs, 0.0).to(torch.int8)


VOTE_BITS = 10
"""A vote is 2¹⁰ grid steps, so that what discrete noise costs is a millionth of a vote."""


def add_votes(total: Tensor, index: Tensor, signs: Tensor, entries: int) -> None:
    """Add votes to ``total``, int64 ``[d]``, in place, in steps of 2⁻¹⁰; exact in any order.

    Args:
        index: int64 ``[n, e]``, the coordinates that each vote is for. One that occurs twice in a
            row, or lies outside, counts as no vote.
        signs: int8 ``[n, e]`` in {-1, 0, 1}.
        entries: k. A row whose exact squared norm is larger adds nothing.
    """
    order = index.argsort(dim=1, stable=True)
    index, signs = index.gather(1, order), signs.gather(1, order).to(torch.int64)
    repeated = torch.zeros_like(index, dtype=torch.bool)
    repeated[:, 1:] = index[:, 1:] == index[:, :-1]
    inside = (index >= 0) & (index < len(total))
    signs = torch.where(repeated | ~inside, 0, signs)
    signs = torch.where(signs.square().sum(dim=1, keepdim=True) <= entries, signs, 0)
    index = torch.where(inside, index, 0)
    total.index_add_(0, index.reshape(-1), signs.reshape(-1) << VOTE_BITS)
