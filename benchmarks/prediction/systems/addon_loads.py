"""Loads of adapters and ControlNets in a simulated server: the product's own ledger decides what stays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lego_serve.core.caching.ledger import CacheLedger, Reservation
from lego_serve.sim.engine import Engine


@dataclass(frozen=True, slots=True)
class Store:
    """Add-ons of one kind: their bytes by name, the bytes that may be kept, and the seconds of a load."""

    sizes: Mapping[str, int]
    kept_bytes: int
    load_s: float


class AddonLoads:
    """What one process keeps of one kind; loads run side by side, and several jobs wait for the same one."""

    def __init__(self, engine: Engine, store: Store, kept_bytes: int) -> None:
        self._engine, self._store = engine, store
        self._ledger = CacheLedger(kept_bytes)
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self.loads = 0

    def fetch(self, names: Sequence[str], then: Callable[[], None]) -> None:
        """Call back once all are there, at once if they are."""
        missing = [name for name in dict.fromkeys(names) if not self._ledger.touch(name, self._engine.now)]
        if not missing:
            then()
            return
        left = set(missing)

        def arrived(name: str) -> None:
            left.discard(name)
            if not left:
                then()

        for name in missing:
            self._fetch(name, partial(arrived, name))

    def _fetch(self, name: str, then: Callable[[], None]) -> None:
        waiting = self._waiting.setdefault(name, [])
        waiting.append(then)
        if len(waiting) > 1:
            return
        self.loads += 1
        size, load_s = self._store.sizes[name], self._store.load_s
        is_kept = isinstance(self._ledger.reserve(name, size, load_s), Reservation)
        self._engine.after(load_s, self._loaded, name, is_kept)

    def _loaded(self, name: str, is_kept: bool) -> None:
        if is_kept:
            self._ledger.commit(name)
        for then in self._waiting.pop(name):
            then()
