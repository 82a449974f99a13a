"""The cache policies that the ledger is compared with; no program of its own, see benchmarks.cache.replay.

LRU and LRU-2 go by when a thing was requested, LFU-DA by how often, GDSF by how often x load time / bytes; W-TinyLFU
admits a newcomer only if it was requested more often than the things it displaces.  All but W-TinyLFU, and the ledger
where it may pass, keep everything requested at least until the next load, as a server must that runs adapters from its
cache.
"""

import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

from lego_serve.core.caching.ledger import CacheLedger, ReservationRefused
from loadgen.popularity import Thing

Cache = Callable[[int], bool]  # request a thing by its number; returns whether it was there
Policy = Callable[[Sequence[Thing], int], Cache]  # makes a cache, from all things and its budget of bytes


class Lru:
    """Evicts the thing that was requested least recently."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things, self._budget = things, budget
        self._entries: OrderedDict[int, None] = OrderedDict()
        self._free = budget

    def __call__(self, thing_id: int) -> bool:
        """Request a thing."""
        if thing_id in self._entries:
            self._entries.move_to_end(thing_id)
            return True
        size = self._things[thing_id].size
        if size <= self._budget:
            while size > self._free:
                self._free += self._things[self._entries.popitem(last=False)[0]].size
            self._entries[thing_id] = None
            self._free -= size
        return False


class Scored:
    """Evicts the thing of the lowest score; a thing is scored when it is requested."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things, self._budget = things, budget
        self._entries: dict[int, tuple[float, int]] = {}
        self._order: list[tuple[float, int]] = []
        self._free = budget
        self._uses: Counter[int] = Counter()
        self._clock = 0
        self._age = 0.0

    def score(self, thing_id: int) -> float:
        """Return the worth of keeping a thing that is requested now."""
        raise NotImplementedError

    def __call__(self, thing_id: int) -> bool:
        """Request a thing."""
        self._clock += 1
        size = self._things[thing_id].size
        known = self._entries.pop(thing_id, None)
        if known is not None:
            del self._order[bisect.bisect_left(self._order, known)]
            self._free += size
        while size > self._free and self._order:
            self._age, victim = self._order.pop(0)
            del self._entries[victim]
            self._free += self._things[victim].size
            self.forget(victim)
        if size <= self._free:
            self._uses[thing_id] += 1
            scored = self._entries[thing_id] = (self.score(thing_id), thing_id)
            bisect.insort(self._order, scored)
            self._free -= size
        return known is not None

    def forget(self, victim: int) -> None:
        """Forget the uses of a thing that was evicted."""
        del self._uses[victim]


class LfuDa(Scored):
    """Scores uses while kept, plus the score of the last thing evicted, so that former favourites age."""

    def score(self, thing_id: int) -> float:
        """Return uses plus age."""
        return self._age + self._uses[thing_id]


class Gdsf(Scored):
    """Scores as LFU-DA does, with uses weighted by load time per byte."""

    def score(self, thing_id: int) -> float:
        """Return weighted uses plus age."""
        thing = self._things[thing_id]
        return self._age + self._uses[thing_id] * thing.load_s / thing.size * 2**20


class Lru2(Scored):
    """Evicts the thing whose last use but one lies furthest back; the uses of evicted things are remembered."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        super().__init__(things, budget)
        self._last: dict[int, int] = {}

    def score(self, thing_id: int) -> float:
        """Return when the thing was requested before."""
        previous = self._last.get(thing_id, 0)
        self._last[thing_id] = self._clock
        return previous


class TinyLfu:
    """W-TinyLFU: a small LRU for newcomers, and a main one for those that leave it with more uses than its oldest.

    Uses are halved every HALVED_EVERY requests.
    """

    HALVED_EVERY = 5000

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things = things
        self._window_free = min(budget, max(budget // 100, max(thing.size for thing in things)))
        self._main_free = budget - self._window_free
        self._window: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, float] = {}
        self._clock = 0

    def __call__(self, thing_id: int) -> bool:
        """Request a thing."""
        self._clock += 1
        self._uses[thing_id] = self._uses.get(thing_id, 0.0) + 1
        if self._clock % self.HALVED_EVERY == 0:
            self._uses = {key: uses / 2 for key, uses in self._uses.items()}
        for part in (self._window, self._main):
            if thing_id in part:
                part.move_to_end(thing_id)
                return True
        self._window[thing_id] = None
        self._window_free -= self._things[thing_id].size
        while self._window_free < 0:
            candidate = self._window.popitem(last=False)[0]
            self._window_free += self._things[candidate].size
            self._promote(candidate)
        return False

    def _promote(self, candidate: int) -> None:
        size, free, victims = self._things[candidate].size, self._main_free, []
        for key in self._main:
            if free >= size:
                break
            victims.append(key)
            free += self._things[key].size
        wins = not victims or self._uses[candidate] > sum(self._uses[victim] for victim in victims)
        if free >= size and wins:
            for victim in victims:
                del self._main[victim]
            self._main[candidate] = None
            self._main_free = free - size


class Ledger:
    """The cache ledger; with ``may_pass`` a thing that is not worth its place is used once and not kept."""

    def __init__(self, things: Sequence[Thing], budget: int, may_pass: bool = False) -> None:
        self._things, self._may_pass = things, may_pass
        self._ledger = CacheLedger(budget)
        self._clock = 0.0

    def __call__(self, thing_id: int) -> bool:
        """Request a thing."""
        self._clock += 1.0
        key, thing = str(thing_id), self._things[thing_id]
        if self._ledger.touch(key, self._clock):
            return True
        decision = self._ledger.reserve(key, thing.size, thing.load_s, optional=self._may_pass)
        if not isinstance(decision, ReservationRefused):
            self._ledger.commit(key)
        return False


def passing_ledger(things: Sequence[Thing], budget: int) -> Ledger:
    """Return the ledger for servers that can use a thing once without keeping it."""
    return Ledger(things, budget, may_pass=True)


POLICIES: Mapping[str, Policy] = {
    "LRU": Lru,
    "LRU-2": Lru2,
    "LFU-DA": LfuDa,
    "GDSF": Gdsf,
    "W-TinyLFU": TinyLfu,
    "ledger": Ledger,
    "ledger, may pass": passing_ledger,
}
