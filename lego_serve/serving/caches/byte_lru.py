"""Encoded prompts kept by least recent use, bounded in bytes."""

from collections import OrderedDict

import numpy as np

Conditioning = dict[str, np.ndarray]


class ByteLru:
    """Conditionings by prompt; never holds more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, prompt: str) -> Conditioning | None:
        """The conditioning of a prompt, now the most recently used; None when it is not kept."""
        if prompt in self._kept:
            self._kept.move_to_end(prompt)
        return self._kept.get(prompt)

    def put(self, prompt: str, value: Conditioning) -> None:
        """Keep a conditioning, dropping the least recently used ones; one larger than the bound is not kept."""
        size = _size(prompt, value)
        if prompt in self._kept:
            self._bytes -= _size(prompt, self._kept.pop(prompt))
        if size > self._max_bytes:
            return
        self._kept[prompt] = value
        self._bytes += size
        while self._bytes > self._max_bytes:
            old, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(old, dropped)

    def drop(self, prompt: str) -> None:
        """Keep it no longer, where it is kept."""
        if (value := self._kept.pop(prompt, None)) is not None:
            self._bytes -= _size(prompt, value)


def _size(prompt: str, value: Conditioning) -> int:
    return len(prompt.encode(errors="replace")) + sum(array.nbytes for array in value.values())
