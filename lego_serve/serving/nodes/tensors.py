"""Arrays of messages as torch tensors."""

from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType, ModuleType

import numpy as np
import torch

from lego_serve.core.values import Ref

# What holds no weights of a model's: names of things, and values.
PLAIN = (type, ModuleType, FunctionType, MethodType, str, bytes, int, float, np.ndarray)


def tensor_of(value: object) -> torch.Tensor:
    """Copy an array of a message into a tensor of its own; arrays from the object store cannot be written to."""
    assert not isinstance(value, Ref), "a reference must be resolved before a node reads it"
    return torch.from_numpy(np.array(value))


def weights_bytes(holder: object, depth: int = 8) -> int:
    """Return the bytes of all tensors that an object holds, in modules or beside them, each counted once."""
    storages = (tensor.untyped_storage() for tensor in _tensors_in(holder, depth))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def drop_weights(holder: object, depth: int = 8) -> None:
    """Give back the memory of all tensors that a model holds, which are nobody else's, at once; it computes no more.

    Nodes and what they hold refer to each other in circles, so letting go of them frees nothing until Python next
    looks for circles.
    """
    for tensor in _tensors_in(holder, depth):
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def _tensors_in(holder: object, depth: int) -> list[torch.Tensor]:
    """Return the tensors that an object holds, in modules or beside them."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()

    def visit(value: object, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, torch.nn.Module):
            found.extend((*value.parameters(), *value.buffers()))
        elif id(value) not in seen and depth and not isinstance(value, PLAIN):
            seen.add(id(value))
            for each in _parts_of(value):
                visit(each, depth - 1)

    visit(holder, depth)
    return found


def _parts_of(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
