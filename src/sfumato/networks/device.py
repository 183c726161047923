"""Where networks compute, and whether bfloat16 is fast there: of capability, never of timing."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


def preferred_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bfloat16(device: torch.device = CPU) -> bool:
    """Whether ``device`` multiplies matrices in bfloat16 faster than in float32.

    On CPUs this asks for AMX tiles: elsewhere bfloat16 is emulated and slower. A capability rather
    than a timing, so that a loaded machine trains the same network as an idle one.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not hasattr(torch.cpu, "get_capabilities"):
        return False  # PyTorch before 2.10
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
