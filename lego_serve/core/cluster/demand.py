"""How much work asks for each set of models, and what one copy more or less of it is worth.

Demand is the seconds of work that came, halved over a half-life.  Where a set has several copies each carries its part;
the only copy of a set is worth more than its part, since without it all its jobs wait for a load.
"""

import math
from collections.abc import Iterable, Iterator

from lego_serve.core.cluster.state import Worker

ONLY_COPY = 4.0  # how many times its demand the first copy of a set is worth
LEAST = 1e-3  # of the whole demand; a set wanted less is forgotten


class Demand:
    """Decayed work by set of models, and where the copies of each set are."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._work: dict[frozenset[str], tuple[float, float]] = {}
        self._copies: dict[frozenset[str], int] = {}
        self._wanted: dict[frozenset[str], float] = {}
        self._share: dict[int, float] = {}

    def count(self, models: frozenset[str], seconds: float, now: float) -> None:
        """Count a job of so many seconds."""
        self._work[models] = (self._at(models, now) + seconds, now)

    def _at(self, models: frozenset[str], now: float) -> float:
        work, at_s = self._work.get(models, (0.0, now))
        return work * math.exp2((at_s - now) / self._half_life_s)

    def place(self, workers: Iterable[Worker], now: float) -> None:
        """Look where the copies of all sets are."""
        held = [(worker, worker.resident | worker.loading.keys()) for worker in workers]
        self._wanted = {models: self._at(models, now) for models in self._work}
        least = LEAST * sum(self._wanted.values())
        for models, wanted in list(self._wanted.items()):
            if wanted < least:
                del self._wanted[models], self._work[models]
        self._share = dict.fromkeys((worker.id for worker, _ in held), 0.0)
        self._copies = {}
        for models, wanted in self._wanted.items():
            holders = [worker.id for worker, models_held in held if models <= models_held]
            self._copies[models] = len(holders)
            for holder in holders:
                self._share[holder] += wanted / len(holders)

    def most_wanted(self) -> Iterator[frozenset[str]]:
        """The sets, that of which one copy more is worth most first."""
        return iter(sorted(self._wanted, key=lambda models: (-self.gain(models), sorted(models))))

    def gain(self, models: frozenset[str]) -> float:
        """What one copy more is worth."""
        copies = self._copies.get(models, 0)
        wanted = self._wanted.get(models, 0.0)
        return wanted / copies if copies else ONLY_COPY * wanted

    def share_of(self, worker: int) -> float:
        """The demand that falls to a worker if all copies carry the same part."""
        return self._share.get(worker, 0.0)

    def losses(self, worker: Worker) -> dict[str, float]:
        """What freeing each model of a worker costs: the most wanted set that it would no longer have."""
        losses: dict[str, float] = {}
        for models, wanted in self._wanted.items():
            if not models <= worker.resident:
                continue
            copies = self._copies.get(models, 1)
            loss = wanted / (copies - 1) if copies > 1 else ONLY_COPY * wanted
            for model in models:
                if loss > losses.get(model, 0.0):
                    losses[model] = loss
        return losses


class OfferedLoad:
    """The work that is offered over what the workers can do, over about half a minute."""

    def __init__(self, half_life_s: float = 30.0) -> None:
        self._half_life_s = half_life_s
        self._work_s = 0.0
        self._at_s = 0.0

    def count(self, seconds: float, now: float) -> None:
        """Count a job of so many seconds."""
        self._work_s = self._work_s * math.exp2((self._at_s - now) / self._half_life_s) + seconds
        self._at_s = now

    def share(self, workers: int, now: float) -> float:
        """The load; 1 is what the workers can just do."""
        work_s = self._work_s * math.exp2((self._at_s - now) / self._half_life_s)
        return work_s * math.log(2.0) / self._half_life_s / max(1, workers)
