"""A model of the baseline: replicas that make whole images one after the other, behind Serve's choice of two."""

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.prediction.costs import MonolithCosts, step_work
from benchmarks.prediction.systems.addon_loads import Store
from benchmarks.prediction.systems.cores import Cores
from benchmarks.prediction.systems.server import IMAGE, Answer
from lego_serve.sim.engine import Engine
from loadgen.addons.request import AddonsRequest
from loadgen.baselines.lru_ledger import LruLedger
from loadgen.goodput.workload import WorkflowRequest
from loadgen.traffic import ImageRequest

CHOICES = 2  # replicas at random of which Serve takes the one with the shorter queue


class AddonStore(Protocol):
    """The storage of add-ons: sizes, what may be kept, and the seconds of a load as they are set now."""

    @property
    def adapters(self) -> Store:
        """The adapters."""
        ...

    @property
    def controlnets(self) -> Store:
        """The ControlNets."""
        ...


@dataclass(slots=True)
class _Replica:
    waiting: deque[tuple[ImageRequest, Answer]] = field(default_factory=deque)
    is_busy: bool = False
    ledgers: Mapping[str, LruLedger] = field(default_factory=dict)

    @property
    def queue(self) -> int:
        return len(self.waiting) + self.is_busy


class SimulatedMonolith:
    """Applications by their path, each with as many replicas."""

    def __init__(
        self,
        engine: Engine,
        cores: int,
        costs: MonolithCosts,
        replicas: int,
        text_rows: int,
        store: AddonStore | None = None,
        seed: int = 0,
    ) -> None:
        self._engine, self._cores, self._costs = engine, Cores(engine, cores), costs
        self._replicas, self._text_rows, self._store = replicas, text_rows, store
        self._apps: dict[str, list[_Replica]] = {}
        self._rng = random.Random(seed)

    def arrive(self, request: ImageRequest, deadline_s: float | None, answer: Answer) -> None:
        """Queue a request at the less loaded of two replicas; it knows no deadlines."""
        prefix = request.prefix if isinstance(request, WorkflowRequest) else ""
        replicas = self._apps.setdefault(prefix, [self._replica() for _ in range(self._replicas)])
        chosen = self._rng.sample(replicas, min(CHOICES, len(replicas)))
        replica = min(chosen, key=lambda each: each.queue)
        replica.waiting.append((request, answer))
        if not replica.is_busy:
            self._next(replica)

    def _replica(self) -> _Replica:
        if self._store is None:
            return _Replica()
        stores = {"adapters": self._store.adapters, "controlnets": self._store.controlnets}
        return _Replica(ledgers={k: LruLedger(each.kept_bytes // self._replicas) for k, each in stores.items()})

    def seconds(self, request: ImageRequest) -> float:
        """Return what a request takes alone, without loads."""
        costs = self._costs
        work = step_work(request, costs.addons, self._text_rows)
        return costs.image.seconds(request.width * request.height) + request.steps * costs.step.seconds(
            work.rows, work.pairs
        )

    def _next(self, replica: _Replica) -> None:
        if not replica.waiting:
            return
        replica.is_busy = True
        request, answer = replica.waiting.popleft()
        self._engine.after(self._load_s(replica, request), self._compute, replica, request, answer)

    def _compute(self, replica: _Replica, request: ImageRequest, answer: Answer) -> None:
        done = partial(self._done, replica, answer)
        self._cores.run(self.seconds(request), done, threads=self._costs.threads, crowding=self._costs.crowding)

    def _done(self, replica: _Replica, answer: Answer) -> None:
        replica.is_busy = False
        self._next(replica)
        answer(IMAGE)

    def _load_s(self, replica: _Replica, request: ImageRequest) -> float:
        """Load what the request needs and the replica lacks; return the seconds, in which the replica waits."""
        if self._store is None or not isinstance(request, AddonsRequest):
            return 0.0
        nets = [name for name, _ in request.controlnets]
        loads = (("adapters", request.adapters, self._store.adapters), ("controlnets", nets, self._store.controlnets))
        seconds = 0.0
        for kind, names, store in loads:
            for name in names:
                if not replica.ledgers[kind].use(name):
                    replica.ledgers[kind].admit(name, store.sizes[name], names)
                    seconds += store.load_s
        return seconds
