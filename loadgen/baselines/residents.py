"""What of adapters or ControlNets one replica of the monolith keeps: the least recently used go first."""

from collections import OrderedDict
from collections.abc import Collection


class Residents:
    """An account of entries by name and bytes; whoever owns the entries frees what it names."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self._sizes

    @property
    def used_bytes(self) -> int:
        """What the entries take."""
        return sum(self._sizes.values())

    def use(self, name: str) -> bool:
        """Whether an entry is resident; it then is the most recently used."""
        if name in self._sizes:
            self._sizes.move_to_end(name)
        return name in self._sizes

    def admit(self, name: str, size: int, needed: Collection[str]) -> list[str]:
        """Make an entry resident and answer whom it displaces, none of those that the request at hand needs.

        What one request needs is loaded even where it takes more than there is.
        """
        self._sizes[name] = size
        displaced = []
        for other in [each for each in self._sizes if each != name and each not in needed]:
            if self.used_bytes <= self._max_bytes:
                break
            del self._sizes[other]
            displaced.append(other)
        return displaced
