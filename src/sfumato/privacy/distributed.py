"""The processes that share the work of one run; alone, or started by ``torchrun``.

All ranks hold the same model and see the same answers. Rank 0 alone keeps the ledger and draws the
noise; the others give it their part of each sum.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sfumato.errors import DataError, SfumatoError, UsageError

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(hours=12)
"""How long a rank waits for one that is alive and works; one that ended is noticed at once."""


def join() -> None:
    """Join the process group that ``torchrun`` describes, if it does; at most once."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # Sums on the host go by the one, tensors on GPUs by the other.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _together():
            dist.init_process_group(backend, timeout=LONGEST_WAIT)
        # A group left to the interpreter's end can abort the process: its threads still run then.
        atexit.register(_leave)


def check_alone(what: str) -> None:
    """Refuse what one process does, where ``torchrun`` has started several.

    Raises:
        UsageError: it has.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"{what} is the work of one process: run it without torchrun.")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process keeps the ledger, draws the noise and writes files."""
    return rank() == 0


def add_up(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all ranks, in place."""
    if size() > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor


def everyones(value: Value) -> list[Value]:
    """The ``value`` of each rank, in order, on every rank."""
    values = [value] * size()
    if size() > 1:
        with _together():
            dist.all_gather_object(values, value)
    return values


def check_agreement(value: str, problem: str) -> None:
    """Refuse a run whose ranks do not all have the same ``value``; every rank raises.

    Raises:
        DataError: they differ; ``problem`` says what that means.
    """
    values = everyones(value)
    others = [number for number, other in enumerate(values) if other != values[0]]
    if others:
        raise DataError(f"rank {others[0]} of {size()} {problem} than rank 0.")


def from_first(value: Value | None) -> Value:
    """Rank 0's ``value`` on every rank; any picklable object, from ranks that trust each other."""
    if size() == 1:
        assert value is not None
        return value
    box = [value]
    with _together():
        dist.broadcast_object_list(box, src=0)
    received = box[0]
    assert received is not None
    return received


def tensor_from_first(tensor: Tensor) -> Tensor:
    """Rank 0's ``tensor`` on every rank, in place."""
    if size() > 1:
        with _together():
            dist.broadcast(tensor, src=0)
    return tensor


@contextmanager
def _together() -> Iterator[None]:
    """Say in one sentence that another process is gone, whatever the transport calls it."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's own errors are of this kind
        failure = type(error).__name__
    else:
        return
    raise SfumatoError(
        f"a process of this run ended or cannot be reached ({failure}), so this one ends too. "
        "What was answered is kept: see what the other one said, and run the same command again."
    )


def in_turns(count: int, make: Callable[[int], Value]) -> Iterator[Value]:
    """What ``make`` gives for 0 … ``count`` - 1, in order, on rank 0; the others yield nothing.

    Ranks make the values in turns, each its own ones. All of them have to go through this.
    """
    if size() == 1:
        yield from map(make, range(count))
        return
    for start in range(0, count, size()):
        number = start + rank()
        made = make(number) if number < count else None
        found: list[Any] | None = [None] * size() if is_first() else None
        with _together():
            dist.gather_object(made, found)
        yield from (found or [])[: count - start]


def share(count: int) -> slice:
    """This rank's slice of ``count`` units; sizes differ by at most one, and may be empty."""
    whole, extra = divmod(count, size())
    start = rank() * whole + min(rank(), extra)
    return slice(start, start + whole + (rank() < extra))
