"""Which device computes, and what may run in bfloat16 there: of capability, never of timing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from sfumato.errors import UsageError
from sfumato.progress import say

Network = TypeVar("Network", bound=nn.Module)

CPU = torch.device("cpu")

TOO_LITTLE_MEMORY = (
    "the device has too little memory for one image, perhaps because other programs use it. The "
    "budget stays charged; the same command goes on with --device cpu."
)


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name, which changes the speed of a run and nothing else.

    Args:
        name: ``auto`` (the CUDA GPU that is current, or else the CPU), ``cpu``, ``cuda``,
            ``cuda:N`` or ``mps``.

    Raises:
        UsageError: there is no such name, or no such device here.
    """
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not number.isdecimal()):
        raise UsageError(f"device={name!r} must be auto, cpu, cuda, cuda:N or mps.")
    if colon and kind != "cuda":
        raise UsageError(f"device={name!r}: only cuda takes a number, such as cuda:0.")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return CPU
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError(f"device={name!r}: PyTorch finds no Apple GPU. Use cpu or auto.")
        return torch.device("mps", 0)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if colon else (torch.cuda.current_device() if there else 0)
    if index >= there:
        found = f"{there} CUDA device{'s' * (there != 1)}, numbered from 0" if there else "no GPU"
        raise UsageError(f"device={name!r}: PyTorch finds {found}. Use auto, or one that is there.")
    return torch.device("cuda", index)


def computing_device(name: str = "auto", quiet: bool = False) -> torch.device:
    """The device of a name; a line says which one it is where ``auto`` has chosen it.

    Raises:
        UsageError: as :func:`resolve_device`.
    """
    device = resolve_device(name)
    if name == "auto":
        say(f"computing on {described(device)}", quiet)
    return device


def exact_device(device: torch.device) -> torch.device:
    """Where integer sums of rows on ``device`` are formed: there, or on the CPU for Apple GPUs.

    Apple GPUs have no float64, which norms are added up in.
    """
    return CPU if device.type == "mps" else device


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; from the host's memory to a CUDA GPU without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu" and torch.cuda.is_available():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def finish(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given: GPUs only note it at first."""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_memory(device: torch.device) -> None:
    """Give cached memory of a GPU back, so that smaller pieces find room."""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()


def described(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return "the CPU" if device.type == "cpu" else str(device)


def device_of(network: nn.Module) -> torch.device:
    """The device that a network's tensors are on; the CPU where it has none."""
    return next((part.device for part in chain(network.parameters(), network.buffers())), CPU)


def moved(network: Network, device: torch.device) -> Network:
    """``network`` with its tensors on ``device``, where they are left if they are there already."""
    tensors = chain(network.parameters(), network.buffers())
    # All of them: a network can share a part with another one that was moved meanwhile.
    if any(tensor.device != device for tensor in tensors):
        # What is moved in inference mode could not take part in a backward pass later.
        with torch.inference_mode(False), torch.no_grad():
            network.to(device)
    return network


def random_on(device: torch.device, seed: int) -> torch.Generator:
    """Public random numbers that are made on ``device``; never for noise that protects anyone."""
    return torch.Generator(device).manual_seed(seed)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices in bfloat16 faster than in float32.

    On CPUs this asks for AMX tiles: elsewhere bfloat16 is emulated and slower. A capability rather
    than a timing, so that a loaded machine trains the same network as an idle one.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False  # the latter: PyTorch before 2.10
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def trains_in_bfloat16(device: torch.device) -> bool:
    """Whether plain training steps of a network of convolutions are faster in bfloat16.

    On CPUs that is so with AVX512_BF16 too, which multiplies in bfloat16 without tiles.
    """
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        if torch.cpu.get_capabilities().get("avx512_bf16", False):
            return True
    return fast_bfloat16(device)


def bfloat16_where(enabled: bool, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on ``device``, or nothing unless ``enabled``."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()
