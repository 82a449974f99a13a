"""Which models are on which worker: loads what waiting jobs need where that ends them sooner than waiting would.

A job's models are loaded as a set: a backbone without its ControlNet helps nobody.  The list schedule says, by
predicted ends, whether a job waits for a worker that has its models or another one loads them; to make room a worker
frees the models whose loading is expected to be saved least by their bytes.  Laws: what a lane or a call on the worker
needs, or a waiting job is to run there next, is not freed; the bytes of a worker are never exceeded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lego_serve.core.cluster.profiles import CostModel
from lego_serve.core.cluster.schedule import NEVER, Entry, list_schedule
from lego_serve.core.cluster.state import Lane, Worker

Loading = tuple[Worker, tuple[str, ...], tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class ResidencyRule:
    """How readily a worker loads."""

    memory_s: float = 300.0  # demand is remembered for about so long
    patience: float = 1.0  # loading must win so many times its own seconds over waiting, unless waiting is too late


class Residency:
    """Keeps account of demand, and plans loads for what waits."""

    def __init__(self, rule: ResidencyRule, costs: CostModel, workers: Mapping[int, Worker]) -> None:
        self._rule = rule
        self._costs = costs
        self._workers = workers
        self._demand: dict[str, tuple[float, float]] = {}  # by model: decayed seconds of work, and when it was counted

    def count(self, models: frozenset[str], seconds: float, now: float) -> None:
        """Count a request for the models."""
        for model in models:
            self._demand[model] = (self._wanted_s(model, now) + seconds, now)

    def _wanted_s(self, model: str, now: float) -> float:
        seconds, at_s = self._demand.get(model, (0.0, now))
        return seconds * math.exp2((at_s - now) / self._rule.memory_s)

    def benefit(self, model: str, now: float) -> float:
        """What keeping one copy of the model is worth for each byte: demand for each copy, times the load it saves."""
        profile = self._costs.profile(model)
        copies = sum(model in worker.resident for worker in self._workers.values())
        return self._wanted_s(model, now) * profile.load_s / max(1, profile.size_bytes) / max(1, copies)

    def ready_s(self, models: frozenset[str], now: float) -> list[float] | None:
        """When each worker could have the models, loading from now; None if all have them."""
        ready: list[float] = []
        is_needed = False
        for worker in self._workers.values():
            missing_s = worker.sets.get(models)
            if missing_s is None:
                missing_s = worker.sets[models] = self._missing_s(worker, models)
            if missing_s:
                is_needed = True
            ready.append(now + missing_s if missing_s >= 0.0 else self._arriving_s(worker, models, now))
        return ready if is_needed else None

    def _missing_s(self, worker: Worker, models: frozenset[str]) -> float:
        """The seconds to load what a worker lacks; -1 if all of it is being loaded, NEVER if it cannot be."""
        missing = models - worker.resident
        if not missing:
            return 0.0
        if missing <= worker.loading.keys():
            return -1.0
        if worker.loading:
            return NEVER  # one set at a time
        return self._costs.load_s(missing)

    def _arriving_s(self, worker: Worker, models: frozenset[str], now: float) -> float:
        return max(now, *(worker.loading[model] for model in models if model in worker.loading))

    def plan(
        self, entries: Sequence[Entry], free_s: Sequence[float], lanes: Mapping[int, Lane], now: float
    ) -> Iterator[Loading]:
        """Yield the loads that the schedule of what waits asks for."""
        if all(entry.ready_s is None for entry in entries):
            return
        workers = list(self._workers.values())
        schedule = list_schedule([each._replace(deadline_s=NEVER) for each in entries], free_s)
        needed: dict[int, set[str]] = {}
        for entry, slot in zip(entries, schedule.slots, strict=True):
            needed.setdefault(slot, set()).update(lanes[entry.number].job.work.models)
        for entry, slot in zip(entries, schedule.slots, strict=True):
            worker, models = workers[slot], lanes[entry.number].job.work.models
            if entry.bound is not None or worker.loading or models <= worker.resident:
                continue
            missing = tuple(sorted(models - worker.resident))
            evict = self._room(worker, missing, needed[slot], now)
            if evict is not None:
                self._begin(worker, missing, evict, now)
                yield worker, missing, evict, f"job {entry.number} ends sooner than by waiting"

    def _room(self, worker: Worker, missing: Sequence[str], needed: set[str], now: float) -> tuple[str, ...] | None:
        """The models to free for others; None if there is no room without what is needed."""
        lacking = self._costs.size_bytes(missing) - (worker.memory_bytes - worker.reserved_bytes)
        if lacking <= 0:
            return ()
        kept = needed.union(*(lane.job.work.models for lane in worker.lanes))
        if worker.call is not None:
            kept |= worker.call.models
        evict: list[str] = []
        for model in sorted(worker.resident - kept, key=lambda each: (self.benefit(each, now), each)):
            evict.append(model)
            lacking -= self._costs.size_bytes((model,))
            if lacking <= 0:
                return tuple(evict)
        return None

    def _begin(self, worker: Worker, missing: Sequence[str], evict: Sequence[str], now: float) -> None:
        at_s = now
        for model in missing:
            at_s += self._costs.profile(model).load_s
            worker.loading[model] = at_s
        worker.resident.difference_update(evict)
        worker.reserved_bytes += self._costs.size_bytes(missing) - self._costs.size_bytes(evict)
        worker.sets.clear()
