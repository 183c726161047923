"""A GPU that is none: its tensors compute on the CPU, and mixing them with others is an error.

A tensor of it is a subclass that says ``cuda:0`` and holds a tensor of the CPU. Every operation on
one is looked at: as on a real GPU, an operand that lies in the host's memory is refused, unless it
has no dimension or the operation is a copy from one to the other. So a method that runs to its end
here has left none of its tensors on the host by accident.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pkgutil import walk_packages

import pytest
import torch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

import sfumato.features
import sfumato.methods
import sfumato.networks
import sfumato.privacy

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
BENEATH = torch.device("meta")
"""What PyTorch itself takes it for: a device that its autograd can serve without a driver."""

COPIES = {
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
}
WAITS = {  # the host cannot go on before the GPU has come so far
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}
INDEXED = {  # PyTorch moves an index by itself
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Memory:
    """What lies on the GPU, in bytes, the most that ever did, and how often the host waited."""

    def __init__(self) -> None:
        self.now = self.most = self.waits = 0
        self._views: Counter[int] = Counter()

    def hold(self, tensor: OnGPU) -> None:
        """Count the tensor's storage for as long as it, or a view of it, is there."""
        storage = tensor.inner.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if self._views[place] == 0:
            self.now += size
            self.most = max(self.most, self.now)
        self._views[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._views[place] -= 1
        if self._views[place] == 0:
            self.now -= size


memory = Memory()


class OnGPU(torch.Tensor):
    """A tensor that says it lies on ``cuda:0``."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGPU:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=BENEATH,
            requires_grad=False,
        )
        made.inner = inner
        memory.hold(made)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where everybody believes it to lie."""
        return GPU

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})

    def __deepcopy__(self, memory):
        copied = OnGPU(self.inner.detach().clone(memory_format=torch.preserve_format))
        copied.requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return copied


class ImplicitTransferError(AssertionError):
    """An operation has operands on the host and on the GPU."""


def run(function, args, kwargs):
    """An operation with operands on the GPU, or one that makes tensors there."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, OnGPU) for x in tensors)
    on_host = [x for x in tensors if not isinstance(x, OnGPU) and x.dim() > 0]
    if there and on_host and function not in COPIES | INDEXED:
        raise ImplicitTransferError(f"{function} has an operand on the host: {on_host[0].shape}")
    target = kwargs.get("device")
    result_there = there if target is None else torch.device(target).type != "cpu"
    if function is torch.ops.aten.copy_.default:
        result_there = isinstance(args[0], OnGPU)
    masked = function in INDEXED and any(x.dtype == torch.bool for x in tensors[1:])
    if there and (function in WAITS or masked or not result_there):
        memory.waits += 1
    if "device" in kwargs and target is not None:
        kwargs = {**kwargs, "device": CPU}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    plain_args, plain_kwargs = tree_map(_inner, (args, kwargs))
    copied = function is torch.ops.aten._to_copy.default
    if copied and there and result_there and kwargs.get("dtype") in (None, args[0].dtype):
        return OnGPU(args[0].inner)  # it is there already: PyTorch was told of what lies beneath
    moved = copied and result_there != there
    result = function(*plain_args, **plain_kwargs)
    if not result_there:
        return result
    wrapped = tree_map(_wrapped, result)
    if moved or not there:
        return wrapped
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


def _inner(value):
    return value.inner if isinstance(value, OnGPU) else value


def _wrapped(value):
    return OnGPU(value) if isinstance(value, torch.Tensor) else value


class Everywhere(TorchDispatchMode):
    """Sees what makes tensors on the GPU from none, and copies to it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation would import the compiler, which takes seconds

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        device = kwargs.get("device")
        here = any(isinstance(x, OnGPU) for x in flat)
        if here or (device is not None and self._is_there(torch.device(device))):
            return run(function, args, kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def _is_there(device: torch.device) -> bool:
        """PyTorch's own code asks for what lies beneath; a method that wants it opens a context."""
        if device.type == "meta":
            modes = torch.overrides._get_current_function_mode_stack()
            return not any(isinstance(mode, DeviceContext) for mode in modes)
        return device.type == "cuda"


class GPUGenerator(torch.Generator):
    """Random numbers that are made on the GPU, as far as anybody can see."""

    @property
    def device(self) -> torch.device:
        return GPU


class AnyGenerator(torch.Generator):
    """What stands for :class:`torch.Generator` while there is a GPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        there = torch.device(device).type == "cuda"
        return _HOST.__new__(GPUGenerator if there else _HOST)


_HOST = torch.Generator


def _load_methods() -> None:
    """Import what methods load when they compute: its annotations mean PyTorch's own classes."""
    for package in (sfumato.methods, sfumato.networks, sfumato.features, sfumato.privacy):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """While the block runs, ``cuda:0`` is there; yields it."""
    _load_methods()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "Generator", AnyGenerator)
        # What runs in inference mode, no subclass can see.
        patched.setattr(
            torch, "inference_mode", lambda on=True: torch.no_grad() if on else nullcontext()
        )
        patched.setattr(torch.cuda, "_lazy_init", lambda: None)
        overwritten = torch.__future__.get_overwrite_module_params_on_conversion
        patched.setattr(torch.__future__, overwritten.__name__, lambda: True)
        patched.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        patched.setattr(torch.cuda, "memory_allocated", lambda device: memory.now)
        patched.setattr(torch.cuda, "max_memory_allocated", lambda device: memory.most)
        patched.setattr(torch.cuda, "mem_get_info", lambda device: (2**22, 2**22))
        patched.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
        with Everywhere():
            yield GPU
