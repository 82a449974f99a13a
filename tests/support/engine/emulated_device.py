"""A device that is not the CPU, on the CPU: it has memory of its own, which nothing but a copy reaches.

torch is told of it in Python, and everything that is to be computed on it runs on the CPU over that memory: contents
are real, and so are the devices of tensors.  An operator over tensors of it and of the CPU raises, as on a GPU, but for
copies and numbers.  A build of torch without CUDA cannot index a tensor that is said to be on a GPU; this one is on a
device which torch is told of in Python.  Importing this registers it, for the life of the process.
"""

import ctypes
import weakref
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fakegpu"
_setup_privateuseone_for_python_backend(NAME)
GPU = torch.device(NAME, 0)
_ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_SET = torch.ops.aten.set_.source_Storage_storage_offset
_COPY_FROM = torch.ops.aten._copy_from.default
_memory: dict[int, Any] = {}  # the bytes of each storage, by their address


def used_bytes() -> int:
    """The bytes of its memory that somebody holds."""
    return sum(map(len, _memory.values()))


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes as a tensor of the CPU."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    raw = torch.frombuffer(_memory[storage.data_ptr()], dtype=torch.uint8).untyped_storage()
    plain = torch.empty(0, dtype=tensor.dtype)
    return plain.set_(raw, tensor.storage_offset(), tensor.shape, tensor.stride())


def _view(storage: torch.UntypedStorage, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the device over a storage of it, with the shape and place of one of the CPU."""
    made = torch._C._acc.create_empty_tensor([0], like.dtype)
    if storage.nbytes() == 0:
        return torch._C._acc.create_empty_tensor(list(like.shape), like.dtype)
    return _SET.redispatch(_ON_CPU, made, storage, like.storage_offset(), like.shape, like.stride())


def _uploaded(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor of the CPU in memory of the device."""
    source = tensor.untyped_storage()
    size = source.nbytes()
    if size == 0:
        return torch._C._acc.create_empty_tensor(list(tensor.shape), tensor.dtype)
    memory = (ctypes.c_ubyte * size)()
    ctypes.memmove(memory, source.data_ptr(), size)
    address = ctypes.addressof(memory)
    _memory[address] = memory
    storage = torch._C._construct_storage_from_data_pointer(address, GPU, size)
    weakref.finalize(storage, _memory.pop, address)
    return _view(storage, tensor)


def _resize(tensor: torch.Tensor, twin: torch.Tensor) -> None:
    """Have a tensor that an operator was to write into be as large as what it has written."""
    if tensor.shape != twin.shape:
        _SET.redispatch(
            _ON_CPU, tensor, _uploaded(twin).untyped_storage(), twin.storage_offset(), twin.shape, twin.stride()
        )


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator over the device's memory."""
    if op.overloadpacket is _SET.overloadpacket:
        return op.redispatch(_ON_CPU, *args, **kwargs)
    if op is _COPY_FROM:
        source, target = args[:2]
        (_on_cpu(target) if target.device == GPU else target).copy_(_on_cpu(source) if source.device == GPU else source)
        return target
    inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    own = [each for each in inputs if each.device == GPU]
    if own and any(each.dim() for each in inputs if each.device != GPU):
        raise RuntimeError(f"{op}: all tensors are to be on the same device, and some are on the CPU")
    twins = {id(each): _on_cpu(each) for each in own}

    def lowered(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return twins.get(id(value), value)

    made = op(*tree_map(lowered, args), **tree_map(lowered, kwargs))
    for each in own:
        _resize(each, twins[id(each)])
    same = {id(twins[id(each)]): each for each in own}
    storages = {twins[id(each)].untyped_storage().data_ptr(): each.untyped_storage() for each in own}

    def raised(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in same:
            return same[id(value)]
        storage = storages.get(value.untyped_storage().data_ptr()) if value.numel() else None
        return _uploaded(value) if storage is None else _view(storage, value)

    return tree_map(raised, made)


def _run_here(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operator as one that no gradient is asked of."""
    with torch.inference_mode(False), torch.no_grad():
        return _run(op, *args, **kwargs)


_all = torch.library.Library("_", "IMPL")
_all.fallback(_run_here, "PrivateUse1")
_own = torch.library.Library("aten", "IMPL")  # of what has a kernel for any device, which says that there is none
for _name, _op in (
    ("convolution_overrideable", torch.ops.aten.convolution.default),
    ("native_group_norm", torch.ops.aten.native_group_norm.default),
):
    _own.impl(_name, partial(_run_here, _op), "PrivateUse1")
