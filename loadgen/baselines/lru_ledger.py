"""An account of the adapters or ControlNets that one replica of the monolith keeps, by least recent use."""

from collections import OrderedDict
from collections.abc import Collection


class LruLedger:
    """Counts entries by name and bytes; their owner frees the entries that it names."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self._sizes

    @property
    def used_bytes(self) -> int:
        """The bytes of all entries."""
        return sum(self._sizes.values())

    def use(self, name: str) -> bool:
        """Return whether an entry is resident, and make it the most recently used."""
        if name in self._sizes:
            self._sizes.move_to_end(name)
        return name in self._sizes

    def admit(self, name: str, size: int, needed: Collection[str]) -> list[str]:
        """Make an entry resident and return the names it displaces, none of which the current request needs.

        The entries of one request are admitted even where they exceed the limit.
        """
        self._sizes[name] = size
        displaced = []
        for other in [entry for entry in self._sizes if entry != name and entry not in needed]:
            if self.used_bytes <= self._max_bytes:
                break
            del self._sizes[other]
            displaced.append(other)
        return displaced
