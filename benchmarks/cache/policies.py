"""The caches that the ledger is compared with: each is asked for a thing and says whether it was there.

LRU and LRU-2 look at when, LFU-DA at how often, GDSF at how often x cost / bytes, W-TinyLFU lets a newcomer in only
if it was asked for more often than what it displaces.  All but the last, and the ledger if told to, keep everything
that is asked for at least until the next load, as a server must that runs adapters from its cache.
"""

import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

from lego_serve.core.caching.ledger import CacheLedger, ReservationRefused
from loadgen.popularity import Thing

Cache = Callable[[int], bool]
Policy = Callable[[Sequence[Thing], int], Cache]  # from the things there are and the bytes to keep them in


class Lru:
    """The least recently asked for goes first."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things, self._budget = things, budget
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._free = budget

    def __call__(self, asked: int) -> bool:
        """Ask for a thing."""
        if asked in self._kept:
            self._kept.move_to_end(asked)
            return True
        size = self._things[asked].size
        if size <= self._budget:
            while size > self._free:
                self._free += self._things[self._kept.popitem(last=False)[0]].size
            self._kept[asked] = None
            self._free -= size
        return False


class Scored:
    """The lowest score goes first; the scores are set when a thing is asked for, and kept in order."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things, self._budget = things, budget
        self._kept: dict[int, tuple[float, int]] = {}
        self._order: list[tuple[float, int]] = []
        self._free = budget
        self._uses: Counter[int] = Counter()
        self._clock = 0
        self._age = 0.0

    def score(self, asked: int) -> float:
        """What keeping a thing is worth, now that it is asked for."""
        raise NotImplementedError

    def __call__(self, asked: int) -> bool:
        """Ask for a thing."""
        self._clock += 1
        size = self._things[asked].size
        known = self._kept.pop(asked, None)
        if known is not None:
            del self._order[bisect.bisect_left(self._order, known)]
            self._free += size
        while size > self._free and self._order:
            self._age, victim = self._order.pop(0)
            del self._kept[victim]
            self._free += self._things[victim].size
            self.forget(victim)
        if size <= self._free:
            self._uses[asked] += 1
            placed = self._kept[asked] = (self.score(asked), asked)
            bisect.insort(self._order, placed)
            self._free -= size
        return known is not None

    def forget(self, victim: int) -> None:
        """A thing was evicted: its uses start anew."""
        del self._uses[victim]


class LfuDa(Scored):
    """Uses while kept, plus the score of the last one evicted, so that former favourites age."""

    def score(self, asked: int) -> float:
        """Uses and age."""
        return self._age + self._uses[asked]


class Gdsf(Scored):
    """As LFU-DA, with uses weighed by load time per byte."""

    def score(self, asked: int) -> float:
        """Worth and age."""
        thing = self._things[asked]
        return self._age + self._uses[asked] * thing.load_s / thing.size * 2**20


class Lru2(Scored):
    """The one whose last use but one lies furthest back goes first; uses of what is evicted are remembered."""

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        super().__init__(things, budget)
        self._last: dict[int, int] = {}

    def score(self, asked: int) -> float:
        """When it was asked for before this time."""
        before = self._last.get(asked, 0)
        self._last[asked] = self._clock
        return before


class TinyLfu:
    """W-TinyLFU: a small LRU for newcomers; what leaves it must beat the main LRU's oldest by uses, halved at times."""

    HALVED_EVERY = 5000

    def __init__(self, things: Sequence[Thing], budget: int) -> None:
        self._things = things
        self._window_free = min(budget, max(budget // 100, max(thing.size for thing in things)))
        self._main_free = budget - self._window_free
        self._window: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, float] = {}
        self._clock = 0

    def __call__(self, asked: int) -> bool:
        """Ask for a thing."""
        self._clock += 1
        self._uses[asked] = self._uses.get(asked, 0.0) + 1
        if self._clock % self.HALVED_EVERY == 0:
            self._uses = {key: uses / 2 for key, uses in self._uses.items()}
        for part in (self._window, self._main):
            if asked in part:
                part.move_to_end(asked)
                return True
        self._window[asked] = None
        self._window_free -= self._things[asked].size
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
    """The ledger; with ``may_pass`` a thing that is not worth its place is used once and not kept."""

    def __init__(self, things: Sequence[Thing], budget: int, may_pass: bool = False) -> None:
        self._things, self._may_pass = things, may_pass
        self._ledger = CacheLedger(budget)
        self._clock = 0.0

    def __call__(self, asked: int) -> bool:
        """Ask for a thing."""
        self._clock += 1.0
        key, thing = str(asked), self._things[asked]
        if self._ledger.touch(key, self._clock):
            return True
        decision = self._ledger.reserve(key, thing.size, thing.load_s, optional=self._may_pass)
        if not isinstance(decision, ReservationRefused):
            self._ledger.commit(key)
        return False


def passing_ledger(things: Sequence[Thing], budget: int) -> Ledger:
    """The ledger, for servers that can use a thing once without keeping it."""
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
