"""Arrays of messages as torch tensors."""

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType

import numpy as np
import torch

from lego_serve.core.values import Ref

# What holds no weights of a model's: names of things, and values.
PLAIN = (type, ModuleType, FunctionType, MethodType, str, bytes, int, float, np.ndarray)
DEPTH = 10  # of objects within objects that are looked into


def tensor_of(value: object) -> torch.Tensor:
    """Copy an array of a message into a tensor of its own; arrays from the object store cannot be written to."""
    assert not isinstance(value, Ref), "a reference must be resolved before a node reads it"
    return torch.from_numpy(np.array(value))


def weights_bytes(holder: object) -> int:
    """Return the bytes of all tensors that an object holds, in modules or beside them, each counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors_in(holder))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def drop_weights(holder: object) -> None:
    """Give back the memory of all tensors that a model holds, which are nobody else's, at once; it computes no more.

    Nodes and what they hold refer to each other in circles, so letting go of them frees nothing until Python next
    looks for circles.
    """
    clear_caches(holder)
    for tensor in tensors_in(holder):
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def clear_caches(holder: object) -> None:
    """Have the functions that a model keeps results of (``lru_cache``) forget them: they are computed anew."""
    for value in _parts_within(holder):
        if callable(clear := getattr(value, "cache_clear", None)):
            clear()


def tensors_in(holder: object) -> list[torch.Tensor]:
    """Return the tensors that an object holds, in modules or beside them."""
    found: list[torch.Tensor] = []
    for value in _parts_within(holder):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, torch.nn.Module):
            found.extend((*value.parameters(), *value.buffers()))
    return found


def _parts_within(holder: object) -> Iterator[object]:
    """Yield all that an object is made of, itself among it; modules and tensors as wholes."""
    seen: set[int] = set()

    def visit(value: object, depth: int) -> Iterator[object]:
        if isinstance(value, torch.Tensor | torch.nn.Module):
            yield value
        elif id(value) not in seen and depth and not isinstance(value, PLAIN):
            seen.add(id(value))
            yield value
            for each in _parts_of(value):
                yield from visit(each, depth - 1)

    return visit(holder, DEPTH)


def _parts_of(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
