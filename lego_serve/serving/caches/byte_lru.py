"""Values kept by least recent use, bounded in bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

import numpy as np

from lego_serve.core.values import Leaf, bytes_of, map_leaves

Value = TypeVar("Value")


class ByteLru(Generic[Value]):
    """Values by key; their arrays and keys never take more than ``max_bytes`` together.

    Every kept array owns its memory: of a view a copy is kept, since the view would hold whatever it is a part of.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._bytes = 0
        self.evicted = 0  # values that have made room for others

    @property
    def bytes(self) -> int:
        """The bytes of the kept values."""
        return self._bytes

    @property
    def max_bytes(self) -> int:
        """The bytes that they may take."""
        return self._max_bytes

    def get(self, key: str) -> Value | None:
        """Return the value of a key, now the most recently used; None when it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Keep a value, dropping the least recently used ones; one larger than the bound is not kept."""
        self.drop(key)
        size = _size(key, value)
        if size > self._max_bytes:
            return
        self._values[key] = value = map_leaves(value, _own)
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest, dropped = self._values.popitem(last=False)
            self._bytes -= _size(oldest, dropped)
            self.evicted += 1

    def drop(self, key: str) -> None:
        """Drop a value, if it is kept."""
        if (value := self._values.pop(key, None)) is not None:
            self._bytes -= _size(key, value)


def _own(leaf: Leaf) -> Leaf:
    return leaf.copy() if isinstance(leaf, np.ndarray) and leaf.base is not None else leaf


def _size(key: str, value: object) -> int:
    return len(key.encode(errors="replace")) + bytes_of(value)
