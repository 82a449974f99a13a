"""Decides which loaded entries stay in memory: keeps account of their bytes and of the load time they may save.

An entry is an adapter, a ControlNet, a template's activations: anything with a size and a time to load.  The ledger
holds no tensors.  Before bytes are spent it names the entries to evict for them; the owner of the tensors frees those:

    if not ledger.touch(key, now):                      # a request asks for it
        decision = ledger.reserve(key, size, load_s)
        ...free decision.evict, load...
        ledger.commit(key)
    ledger.pin(key) ... ledger.release(key)             # while a lane uses it

It evicts the entry of least value first: probability that the next request asks for it x seconds to load it / bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lego_serve.core.caching.popularity import REMEMBERED, Popularity

HYSTERESIS = 1.5  # a prefetched entry must be so much better than those it displaces, so that they do not swap forever
SOON_S = 600.0  # an entry is prefetched only if a request for it is expected within so many seconds
GAP_MEMORY = 0.98  # weight of the running mean gap between requests against the latest gap


@dataclass(frozen=True, slots=True)
class Reservation:
    """The bytes are reserved for the entry; the owner must free the evicted keys before it loads."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReservationRefused:
    """The bytes are not reserved and the ledger is unchanged.

    ``too_large``: the entry exceeds the whole budget.  ``in_use``: pinned and loading entries hold the bytes for now.
    ``not_worth``: the entries that would be evicted are expected to save more time than this one.
    """

    reason: Literal["too_large", "in_use", "not_worth"]


@dataclass(frozen=True, slots=True)
class PrefetchCandidate:
    """An absent entry worth loading before a request asks for it; reserve its bytes with ``optional=True``."""

    key: str
    size: int
    load_s: float


@dataclass(slots=True)
class _Entry:
    """The record of a key; it outlives its bytes for as long as its popularity is remembered."""

    size: int
    load_s: float
    state: Literal["absent", "loading", "resident"] = "absent"
    pins: int = 0


class CacheLedger:
    """The account of one memory: deterministic, never above its budget, not thread-safe.

    It remembers the popularity of ``remembered`` keys, so that an evicted entry that was popular returns as popular.
    """

    def __init__(self, budget_bytes: int, remembered: int = REMEMBERED) -> None:
        if budget_bytes < 0:
            raise ValueError("a budget is not negative")
        self._budget = budget_bytes
        self._popularity = Popularity(remembered)
        self._entries: dict[str, _Entry] = {}
        self._held: dict[str, _Entry] = {}  # loading or resident, in order of arrival
        self._used = 0
        self.evicted = 0  # entries that have made room for others
        self._gap_s: float | None = None
        self._last_touch_s: float | None = None

    def __contains__(self, key: object) -> bool:
        """Whether the entry is resident."""
        return key in self._held and self._held[str(key)].state == "resident"

    def __iter__(self) -> Iterator[str]:
        """The resident keys, in order of arrival."""
        return (key for key, entry in self._held.items() if entry.state == "resident")

    @property
    def budget_bytes(self) -> int:
        """The bytes that may be used."""
        return self._budget

    @property
    def used_bytes(self) -> int:
        """The bytes of resident entries and those reserved for loading ones."""
        return self._used

    @property
    def pinned_bytes(self) -> int:
        """The bytes that cannot be freed now, of pinned and loading entries."""
        return sum(entry.size for entry in self._held.values() if not _is_evictable(entry))

    def is_loading(self, key: str) -> bool:
        """Whether bytes are reserved for the entry and its load has not ended."""
        return key in self._held and self._held[key].state == "loading"

    def touch(self, key: str, now: float) -> bool:
        """Count a request for the key and return whether the key is resident.  Call it once per request."""
        if self._last_touch_s is not None:
            gap_s = max(0.0, now - self._last_touch_s)
            self._gap_s = gap_s if self._gap_s is None else GAP_MEMORY * self._gap_s + (1 - GAP_MEMORY) * gap_s
        self._last_touch_s = now
        for forgotten in self._popularity.count(key):
            if forgotten not in self._held:
                self._entries.pop(forgotten, None)
        return key in self

    def benefit_s(self, key: str) -> float:
        """Return the seconds of loading that the entry, if resident, is expected to save the next request."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else self._popularity.chance(key) * entry.load_s

    def reserve(
        self, key: str, size: int, load_s: float, *, optional: bool = False
    ) -> Reservation | ReservationRefused:
        """Reserve bytes for an entry about to be loaded.

        With ``optional`` the entry is refused if it would evict entries of more value: for prefetches, and for callers
        that can use the entry once without keeping it.  An entry already loading or resident gets a reservation that
        evicts nothing.  Raises ValueError for a negative size or load time.
        """
        if size < 0 or load_s < 0:
            raise ValueError("sizes and load times are not negative")
        if key in self._held:
            return Reservation()
        if size > self._budget:
            return ReservationRefused("too_large")
        victims = self._victims(self._used + size - self._budget)
        if victims is None:
            self._remember(key, _Entry(size, load_s))
            return ReservationRefused("in_use")
        entry = _Entry(size, load_s, "loading")
        own_benefit_s = self._popularity.chance(key) * load_s
        if optional and victims and sum(self.benefit_s(victim) for victim in victims) >= own_benefit_s:
            self._remember(key, _Entry(size, load_s))
            return ReservationRefused("not_worth")
        for victim in victims:
            self._drop(victim)
        self.evicted += len(victims)
        self._entries[key] = self._held[key] = entry
        self._used += size
        return Reservation(tuple(victims))

    def commit(self, key: str, size: int | None = None, load_s: float | None = None) -> None:
        """Mark a loading entry resident, with its real size and load time in place of the predicted ones.

        Raises ValueError for an entry that is not loading, or a size above the reserved one.
        """
        entry = self._held[key]
        if entry.state != "loading":
            raise ValueError("only an entry that is loading can be committed")
        if size is not None:
            if not 0 <= size <= entry.size:
                raise ValueError("an entry takes at most the bytes reserved for it")
            self._used -= entry.size - size
            entry.size = size
        entry.load_s = entry.load_s if load_s is None else load_s
        entry.state = "resident"

    def pin(self, key: str) -> None:
        """Protect a loading or resident entry from eviction until it is released as often as pinned."""
        self._held[key].pins += 1

    def release(self, key: str) -> None:
        """Take back one pin.  Raises ValueError for an entry without pins."""
        entry = self._held[key]
        if entry.pins == 0:
            raise ValueError("the entry is not pinned")
        entry.pins -= 1

    def drop(self, key: str) -> None:
        """Remove an entry whose load failed or that its owner freed; it stays popular.  Raises ValueError if pinned."""
        if self._held[key].pins:
            raise ValueError("an entry in use cannot be dropped")
        self._drop(key)

    def prefetch_candidates(self, now: float, limit: int = 4) -> list[PrefetchCandidate]:
        """Return the absent entries most worth loading now, best first.

        A request for each is expected soon at the current rate of requests, and each fits into free space or saves
        clearly more time than the entries it displaces.
        """
        if self._gap_s is None or self._last_touch_s is None:
            return []
        requests = SOON_S / max(self._gap_s, now - self._last_touch_s, 1e-9)
        absent = [(key, entry) for key, entry in self._entries.items() if entry.state == "absent"]
        expected = [(key, entry) for key, entry in absent if self._popularity.chance(key) * requests >= 1]
        expected.sort(key=lambda pair: -self._density(*pair))
        room, chosen = self._budget - self._used, list[PrefetchCandidate]()
        for key, entry in expected:
            if len(chosen) == limit:
                break
            if entry.size > room:
                # `reserve` will choose the victims anew; with one swap at a time it finds the same ones.
                victims = None if chosen else self._victims(entry.size - room)
                if victims is None or HYSTERESIS * sum(map(self.benefit_s, victims)) >= self.benefit_s(key):
                    continue
                return [PrefetchCandidate(key, entry.size, entry.load_s)]
            room -= entry.size
            chosen.append(PrefetchCandidate(key, entry.size, entry.load_s))
        return chosen

    def check(self) -> None:
        """Raise AssertionError if an invariant of the account is broken."""
        problems = {
            "bytes add up": self._used == sum(entry.size for entry in self._held.values()),
            "bytes are within the budget": 0 <= self._used <= self._budget,
            "held entries are known": all(self._entries.get(key) is entry for key, entry in self._held.items()),
            "absent entries hold nothing": all(
                (entry.state == "absent") == (key not in self._held) for key, entry in self._entries.items()
            ),
            "pins are on held entries": all(
                entry.pins == 0 or (entry.pins > 0 and key in self._held) for key, entry in self._entries.items()
            ),
            "absent entries are remembered": all(key in self._popularity or key in self._held for key in self._entries),
        }
        wrong = [name for name, holds in problems.items() if not holds]
        if wrong:
            raise AssertionError(f"the ledger is wrong: not so that {'; '.join(wrong)}")

    def _density(self, key: str, entry: _Entry) -> float:
        return self._popularity.chance(key) * entry.load_s / max(entry.size, 1)

    def _victims(self, needed: int) -> list[str] | None:
        """Return the keys to evict for so many bytes, least benefit per byte first; None if too few are evictable."""
        if needed <= 0:
            return []
        # Sorting is stable and held entries are in order of arrival: of two equals the older one is evicted.
        order = sorted(
            ((self._density(key, entry), key, entry) for key, entry in self._held.items() if _is_evictable(entry)),
            key=lambda item: item[0],
        )
        chosen, freed = [], 0
        for _, key, entry in order:
            if freed >= needed:
                break
            chosen.append((key, entry.size))
            freed += entry.size
        if freed < needed:
            return None
        spared = set()
        for key, size in reversed(chosen):  # a large entry chosen last may make the eviction of better ones needless
            if freed - size >= needed:
                freed -= size
                spared.add(key)
        return [key for key, _ in chosen if key not in spared]

    def _drop(self, key: str) -> None:
        entry = self._held.pop(key)
        self._used -= entry.size
        del self._entries[key]
        self._remember(key, _Entry(entry.size, entry.load_s))

    def _remember(self, key: str, entry: _Entry) -> None:
        if key in self._popularity:
            self._entries[key] = entry


def _is_evictable(entry: _Entry) -> bool:
    return entry.state == "resident" and entry.pins == 0
