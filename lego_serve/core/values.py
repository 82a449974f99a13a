"""What node messages are made of: arrays, references to arrays that stay where they were made, and typed requests."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

ReplyT = TypeVar("ReplyT", covariant=True)
Leaf: TypeAlias = object


class Array(Protocol):
    """An n-dimensional array of numbers, as numpy has it; the core looks at its size alone."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length in each dimension."""
        ...

    @property
    def nbytes(self) -> int:
        """The bytes of its numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Ref:
    """A handle to an array that stays in the cluster's object store; equal where the array is the same one.

    Whoever reads it asks the store by ``handle``, which the core never looks at.
    """

    id: str
    size_bytes: int
    handle: object = field(default=None, compare=False, repr=False)


Tensor: TypeAlias = Array | Ref  # an array by value, or where it is


class NodeRequest(Generic[ReplyT]):
    """A message to a node; its type argument is what the node replies with."""

    __slots__ = ()


def map_leaves(value: Any, change: Callable[[Leaf], Leaf]) -> Any:
    """Return the value with each leaf of its dataclasses, tuples and mappings changed; the same object if none was."""
    if isinstance(value, Ref):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        old = {each.name: getattr(value, each.name) for each in fields(value)}
        new = {name: map_leaves(part, change) for name, part in old.items()}
        changed = {name: part for name, part in new.items() if part is not old[name]}
        return replace(value, **changed) if changed else value
    if isinstance(value, tuple):
        parts = tuple(map_leaves(part, change) for part in value)
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    if isinstance(value, Mapping):
        entries = {key: map_leaves(part, change) for key, part in value.items()}
        return entries if any(entries[key] is not value[key] for key in value) else value
    return change(value)


def refs_of(value: object) -> Iterator[Ref]:
    """Yield the references in a value."""
    found: list[Ref] = []

    def note(leaf: Leaf) -> Leaf:
        if isinstance(leaf, Ref):
            found.append(leaf)
        return leaf

    map_leaves(value, note)
    yield from found


def arrays_of(value: object) -> list[Any]:
    """Return the arrays in a value, in order; references are none."""
    found: list[Any] = []

    def note(leaf: Leaf) -> Leaf:
        if isinstance(getattr(leaf, "nbytes", None), int):
            found.append(leaf)
        return leaf

    map_leaves(value, note)
    return found


def bytes_of(value: object) -> int:
    """Return the bytes of the arrays in a value; references count nothing."""
    return sum(array.nbytes for array in arrays_of(value))


def whole_bytes_of(value: object) -> int:
    """Return the bytes of the arrays in a value, wherever they are."""
    return bytes_of(value) + sum(ref.size_bytes for ref in refs_of(value))
