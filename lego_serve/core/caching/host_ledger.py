"""Decides which evicted models' weights stay in host memory: those used last, within bytes of their own.

It keeps the account and holds no weights.  Its owner copies a model's weights to host memory after ``admit`` has named
those that go for it, and says with ``take`` that a model has gone back to its device:

    gone = ledger.admit(key, size, used_s)     # the model was evicted from its device
    if gone is not None: ...free those, copy...
    ledger.take(key)                           # it is wanted again
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Kept:
    size: int
    used_s: float


class HostLedger:
    """The bytes of weights in host memory, by least recent use (LRU)."""

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise ValueError("a budget is not negative")
        self._budget = budget_bytes
        self._kept: dict[str, _Kept] = {}

    def __contains__(self, key: object) -> bool:
        """Whether an entry is in host memory."""
        return key in self._kept

    @property
    def budget_bytes(self) -> int:
        """The bytes that may be used."""
        return self._budget

    @property
    def used_bytes(self) -> int:
        """The bytes of all entries."""
        return sum(kept.size for kept in self._kept.values())

    def bytes_of(self, key: str) -> int:
        """The bytes of an entry; 0 where it is not in host memory."""
        return self._kept[key].size if key in self._kept else 0

    def admit(self, key: str, size: int, used_s: float) -> tuple[str, ...] | None:
        """Take an entry into the account, last used at ``used_s``; return those that go for it, the oldest first.

        None where it is not kept, and nothing goes: what was used after it never makes room for it.  Raises ValueError
        for a size below 0 and for an entry that is in the account.
        """
        if size < 0 or key in self._kept:
            raise ValueError("an entry is taken in once, and its size is not negative")
        needed = self.used_bytes + size - self._budget
        gone: list[str] = []
        for other, kept in sorted(self._kept.items(), key=lambda item: item[1].used_s):
            if needed <= 0 or kept.used_s > used_s:
                break
            gone.append(other)
            needed -= kept.size
        if needed > 0:
            return None
        for other in gone:
            del self._kept[other]
        self._kept[key] = _Kept(size, used_s)
        return tuple(gone)

    def touch(self, key: str, used_s: float) -> None:
        """Note that an entry is wanted, if it is in host memory: it goes after all that were used before."""
        if key in self._kept:
            self._kept[key] = _Kept(self._kept[key].size, used_s)

    def take(self, key: str) -> None:
        """Take an entry out of the account: it is on its device again, or of no use; one that is not in it is not."""
        self._kept.pop(key, None)
