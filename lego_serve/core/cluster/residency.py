"""Which models are on which worker: loads what waiting jobs need, and further copies of what is wanted most.

A job's models are loaded as a set: a backbone without its ControlNet helps nobody.  The list schedule says, by
predicted ends, whether a job waits for a worker that has its models or another one loads them.  A set that more work
asks for, by its copies, than for those that would go, gets a further copy; also one whose jobs had to be refused since
nobody had it.  Laws: what a lane or a call on the worker needs, or a waiting job is to run there next, is not freed;
the bytes of a worker are never exceeded; a worker loads one set at a time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from lego_serve.core.cluster.demand import Demand
from lego_serve.core.cluster.profiles import CostModel
from lego_serve.core.cluster.schedule import LATE_S, NEVER, Entry, list_schedule
from lego_serve.core.cluster.state import Lane, Worker

Loading = tuple[Worker, tuple[str, ...], tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class ResidencyRule:
    """How readily a worker loads."""

    half_life_s: float = 120.0  # of demand
    hysteresis: float = 3.0  # a further copy must be worth so many times those it displaces
    prefetches: bool = True
    every_s: float = 1.0  # further copies are thought of so often
    thought_of: int = 4  # sets, each time


class Residency:
    """Keeps account of demand, and plans loads for what waits and for what will come."""

    def __init__(self, rule: ResidencyRule, costs: CostModel, workers: Mapping[int, Worker]) -> None:
        self._rule = rule
        self._costs = costs
        self._workers = workers
        self.demand = Demand(rule.half_life_s)
        self._thought_s = float("-inf")
        self._everywhere: dict[frozenset[str], bool] = {}
        self._needed: dict[int, set[str]] = {}  # by worker: what is to run there next, as planned last
        self._losses: dict[int, list[tuple[float, str]]] = {}  # by worker: what its models are worth, the least first

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
            return NEVER
        return self._costs.load_s(missing)

    def _arriving_s(self, worker: Worker, models: frozenset[str], now: float) -> float:
        return max(now, *(worker.loading[model] for model in models if model in worker.loading))

    def changed(self, worker: Worker) -> None:
        """Hear that a worker has other models now, has come or has gone."""
        worker.sets.clear()
        self._everywhere.clear()

    def are_everywhere(self, sets: Iterable[frozenset[str]]) -> bool:
        """Whether every worker has the models of all these sets."""
        for models in sets:
            found = self._everywhere.get(models)
            if found is None:
                found = self._everywhere[models] = all(worker.has(models) for worker in self._workers.values())
            if not found:
                return False
        return True

    def nothing_to_plan(self, sets: Iterable[frozenset[str]]) -> list[Loading]:
        """Hear that what waits finds its models wherever it runs; they are not displaced for further copies."""
        self._needed = dict.fromkeys(self._workers, set().union(*sets))
        return []

    def plan(
        self, entries: Sequence[Entry], free_s: Sequence[float], lanes: Mapping[int, Lane], now: float
    ) -> Iterator[Loading]:
        """Yield the loads that the schedule of what waits asks for."""
        self._needed = {}
        workers = list(self._workers.values())
        schedule = list_schedule(_patient(entries, free_s, now), free_s)
        for entry, slot in zip(entries, schedule.slots, strict=True):
            self._needed.setdefault(workers[slot].id, set()).update(lanes[entry.number].job.work.models)
        for entry, slot in zip(entries, schedule.slots, strict=True):
            worker, models = workers[slot], lanes[entry.number].job.work.models
            if entry.bound is not None or worker.loading or models <= worker.resident:
                continue
            missing = tuple(sorted(models - worker.resident))
            room = self._room(worker, missing, now)
            if room is not None:
                self._begin(worker, missing, room[0], now)
                yield worker, missing, room[0], f"job {entry.number} ends sooner than by waiting"

    def missed(self, models: frozenset[str]) -> None:
        """Hear that a job was refused; if nobody has its models and nobody loads them, think of copies at once."""
        if not any(models <= worker.resident | worker.loading.keys() for worker in self._workers.values()):
            self._thought_s = float("-inf")

    def is_due(self, now: float) -> bool:
        """Whether it is time to think of further copies."""
        return self._rule.prefetches and not self._thought_s <= now < self._thought_s + self._rule.every_s

    def prefetch(self, now: float) -> Iterator[Loading]:
        """Yield the load of a further copy that is worth more than what it displaces; ``plan`` comes before."""
        self._place(now)
        for models in islice(self.demand.most_wanted(), self._rule.thought_of):
            gain = self.demand.gain(models)
            best: tuple[float, float, Worker, tuple[str, ...], tuple[str, ...]] | None = None
            for worker in self._workers.values():
                if worker.loading or models <= worker.resident:
                    continue
                missing = tuple(sorted(models - worker.resident))
                room = self._room(worker, missing, now, models)
                if room is None or gain <= self._rule.hysteresis * room[1]:
                    continue
                rank = (room[1], self.demand.share_of(worker.id))
                if best is None or rank < best[:2]:
                    best = (*rank, worker, missing, room[0])
            if best is not None:
                _, _, worker, missing, evict = best
                self._begin(worker, missing, evict, now)
                yield worker, missing, evict, "more is wanted of it than of what it displaces"
                return

    def _room(
        self, worker: Worker, missing: Sequence[str], now: float, wanted: frozenset[str] = frozenset()
    ) -> tuple[tuple[str, ...], float] | None:
        """The models to free for others, and what the most wanted of them is worth; None without room."""
        lacking = self._costs.size_bytes(missing) - (worker.memory_bytes - worker.reserved_bytes)
        if lacking <= 0:
            return (), 0.0
        needed = self._needed.get(worker.id, set())
        kept = needed.union(wanted, *(lane.job.work.models for lane in worker.lanes))
        if worker.call is not None:
            kept |= worker.call.models
        evict: list[str] = []
        worth = 0.0
        for loss, model in self._least_wanted(worker, now):
            if model in kept:
                continue
            evict.append(model)
            worth = max(worth, loss)
            lacking -= self._costs.size_bytes((model,))
            if lacking <= 0:
                return tuple(evict), worth
        return None

    def _least_wanted(self, worker: Worker, now: float) -> list[tuple[float, str]]:
        """The models of a worker with what freeing each costs, as it was when copies were last thought of."""
        if not self._thought_s <= now <= self._thought_s + self._rule.every_s:
            self._place(now)
        order = self._losses.get(worker.id)
        if order is None:
            losses = self.demand.losses(worker)
            order = self._losses[worker.id] = sorted((losses.get(model, 0.0), model) for model in worker.resident)
        return order

    def _place(self, now: float) -> None:
        self._thought_s = now
        self._losses.clear()
        self.demand.place(self._workers.values(), now)

    def _begin(self, worker: Worker, missing: Sequence[str], evict: Sequence[str], now: float) -> None:
        at_s = now
        for model in missing:
            at_s += self._costs.profile(model).load_s
            worker.loading[model] = at_s
        worker.resident.difference_update(evict)
        self._losses.pop(worker.id, None)
        worker.reserved_bytes += self._costs.size_bytes(missing) - self._costs.size_bytes(evict)
        self.changed(worker)


def _patient(entries: Sequence[Entry], free_s: Sequence[float], now: float) -> list[Entry]:
    """The entries without deadlines; those that end in time on workers that have their models wait for one of these."""
    waiting = []
    for entry in entries:
        if entry.bound is None and entry.ready_s is not None:
            held = [ready if ready <= now else NEVER for ready in entry.ready_s]
            waiting.append(entry._replace(deadline_s=NEVER, ready_s=held))
        else:
            waiting.append(entry._replace(deadline_s=NEVER))
    ends_s = list_schedule(waiting, free_s).ends_s
    return [
        patient if end_s <= entry.deadline_s + LATE_S else entry._replace(deadline_s=NEVER)
        for entry, patient, end_s in zip(entries, waiting, ends_s, strict=True)
    ]
