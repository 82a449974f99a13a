"""Which loaded things stay in memory: bytes accounted for, entries kept by the load time they are expected to save.

An entry is an adapter, a ControlNet, a template's activations: anything with a size and a time to load.  The ledger
holds no tensors.  It says before bytes are spent what has to go for them, and whoever owns the tensors obeys:

    if not ledger.touch(key, now):                      # a request asks for it
        decision = ledger.reserve(key, size, load_s)
        ...free decision.evict, load...
        ledger.commit(key)
    ledger.pin(key) ... ledger.release(key)             # while a lane uses it

What is worth least goes first: the chance that the next request asks for it x seconds to load it / bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lego_serve.core.caching.popularity import REMEMBERED, Popularity

HYSTERESIS = 1.5  # how much better an entry loaded ahead must be than what it displaces, so that the two do not swap
SOON_S = 600.0  # an entry is loaded ahead only if it is expected to be asked for within so many seconds
GAP_MEMORY = 0.98  # weight of the mean gap between requests against the latest


@dataclass(frozen=True, slots=True)
class Reservation:
    """The bytes are held for the entry; these keys are no longer accounted for and must be freed first."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReservationRefused:
    """Nothing has changed.

    ``too_large``: more than the whole budget.  ``in_use``: pins and loads hold the bytes for now.
    ``not_worth``: what would have to go is expected to save more time than the entry.
    """

    why: Literal["too_large", "in_use", "not_worth"]


@dataclass(frozen=True, slots=True)
class PrefetchCandidate:
    """An absent entry worth loading before it is asked for; pass it to `CacheLedger.reserve` with ``optional=True``."""

    key: str
    size: int
    load_s: float


@dataclass(slots=True)
class _Entry:
    """What is known of a key; kept without its bytes while its popularity is remembered."""

    size: int
    load_s: float
    state: Literal["absent", "loading", "resident"] = "absent"
    pins: int = 0


class CacheLedger:
    """The account of one memory; not thread-safe, deterministic, never above its budget.

    It remembers ``remembered`` keys beyond those it holds, so that what was popular comes back as popular.
    """

    def __init__(self, budget_bytes: int, remembered: int = REMEMBERED) -> None:
        if budget_bytes < 0:
            raise ValueError("a budget is not negative")
        self._budget = budget_bytes
        self._popularity = Popularity(remembered)
        self._entries: dict[str, _Entry] = {}
        self._held: dict[str, _Entry] = {}  # those loading or resident, in order of arrival
        self._used = 0
        self._gap_s: float | None = None
        self._asked_s: float | None = None

    def __contains__(self, key: object) -> bool:
        """Whether the entry is resident, ready for use."""
        return key in self._held and self._held[str(key)].state == "resident"

    def __iter__(self) -> Iterator[str]:
        """The resident keys, in order of arrival."""
        return (key for key, entry in self._held.items() if entry.state == "resident")

    @property
    def budget_bytes(self) -> int:
        """What may be used."""
        return self._budget

    @property
    def used_bytes(self) -> int:
        """What resident entries take and loading ones will."""
        return self._used

    @property
    def pinned_bytes(self) -> int:
        """What cannot be freed now: entries in use and entries loading."""
        return sum(entry.size for entry in self._held.values() if not _may_go(entry))

    def is_loading(self, key: str) -> bool:
        """Whether bytes are reserved for the entry and it is not there yet."""
        return key in self._held and self._held[key].state == "loading"

    def touch(self, key: str, now: float) -> bool:
        """A request asks for the key: counts it and answers whether it is resident.  Call it once a request."""
        if self._asked_s is not None:
            gap_s = max(0.0, now - self._asked_s)
            self._gap_s = gap_s if self._gap_s is None else GAP_MEMORY * self._gap_s + (1 - GAP_MEMORY) * gap_s
        self._asked_s = now
        for forgotten in self._popularity.count(key):
            if forgotten not in self._held:
                self._entries.pop(forgotten, None)
        return key in self

    def benefit_s(self, key: str) -> float:
        """Seconds of loading that the next request is expected to save if the entry is resident then."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else self._popularity.chance(key) * entry.load_s

    def reserve(
        self, key: str, size: int, load_s: float, *, optional: bool = False
    ) -> Reservation | ReservationRefused:
        """Hold bytes for an entry about to be loaded.

        With ``optional`` the entry is refused rather than that it evicts what is worth more: for loads ahead of need,
        and for callers that can use it once without keeping it.  An entry that loads or is resident already gets an
        empty decision.
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
        worth = self._popularity.chance(key) * load_s
        if optional and victims and sum(self.benefit_s(victim) for victim in victims) >= worth:
            self._remember(key, _Entry(size, load_s))
            return ReservationRefused("not_worth")
        for victim in victims:
            self._let_go(victim)
        self._entries[key] = self._held[key] = entry
        self._used += size
        return Reservation(tuple(victims))

    def commit(self, key: str, size: int | None = None, load_s: float | None = None) -> None:
        """The entry is there; what it really took replaces what was predicted, and may not be larger in bytes."""
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
        """Keep a held entry until as many calls of `release`."""
        self._held[key].pins += 1

    def release(self, key: str) -> None:
        """Take back one pin."""
        entry = self._held[key]
        if entry.pins == 0:
            raise ValueError("the entry is not pinned")
        entry.pins -= 1

    def drop(self, key: str) -> None:
        """The entry is gone: its load failed, or its owner removed it.  Its popularity stays known."""
        if self._held[key].pins:
            raise ValueError("an entry in use cannot be dropped")
        self._let_go(key)

    def prefetch_candidates(self, now: float, limit: int = 4) -> list[PrefetchCandidate]:
        """The absent entries most worth loading now, best first.

        Each is expected to be asked for soon at the pace requests come, and fits into free space or saves clearly
        more than what it displaces.
        """
        if self._gap_s is None or self._asked_s is None:
            return []
        requests = SOON_S / max(self._gap_s, now - self._asked_s, 1e-9)
        absent = [(key, entry) for key, entry in self._entries.items() if entry.state == "absent"]
        hopeful = [(key, entry) for key, entry in absent if self._popularity.chance(key) * requests >= 1]
        hopeful.sort(key=lambda pair: -self._density(*pair))
        room, chosen = self._budget - self._used, list[PrefetchCandidate]()
        for key, entry in hopeful:
            if len(chosen) == limit:
                break
            if entry.size > room:
                # What frees the space is decided when it is reserved; one swap at a time keeps that decision true.
                victims = None if chosen else self._victims(entry.size - room)
                if victims is None or HYSTERESIS * sum(map(self.benefit_s, victims)) >= self.benefit_s(key):
                    continue
                return [PrefetchCandidate(key, entry.size, entry.load_s)]
            room -= entry.size
            chosen.append(PrefetchCandidate(key, entry.size, entry.load_s))
        return chosen

    def check(self) -> None:
        """Raise AssertionError unless the account is right; for tests and for operators in doubt."""
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
        """Whom to evict for so many bytes, least benefit per byte first; None if pins and loads hold too much."""
        if needed <= 0:
            return []
        # Sorting is stable and held entries stand in order of arrival: of equals the older one goes.
        order = sorted(
            ((self._density(key, entry), key, entry) for key, entry in self._held.items() if _may_go(entry)),
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
        kept = set()
        for key, size in reversed(chosen):  # a large one chosen last may have made better ones before it needless
            if freed - size >= needed:
                freed -= size
                kept.add(key)
        return [key for key, _ in chosen if key not in kept]

    def _let_go(self, key: str) -> None:
        entry = self._held.pop(key)
        self._used -= entry.size
        del self._entries[key]
        self._remember(key, _Entry(entry.size, entry.load_s))

    def _remember(self, key: str, entry: _Entry) -> None:
        if key in self._popularity:
            self._entries[key] = entry


def _may_go(entry: _Entry) -> bool:
    return entry.state == "resident" and entry.pins == 0
