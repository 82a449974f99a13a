"""Our own policy: the classes of the core, driven as a server drives them; orders go to the simulated machines."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lego_serve.core.cluster.cell import Cell, CellRule
from lego_serve.core.cluster.events import (
    Admitted,
    CallEnded,
    Decision,
    Event,
    Finished,
    Load,
    Loaded,
    Offered,
    Rejected,
    Run,
    Shed,
    WorkerJoined,
)
from lego_serve.core.cluster.routing import NoRoute, Router
from lego_serve.core.cluster.state import Call, Job
from lego_serve.sim.cluster import SimCluster
from lego_serve.sim.workload import Request

Preload = Mapping[int, Sequence[str]] | Sequence[str]  # by GPU, or the same on all


@dataclass(frozen=True, slots=True)
class LegoOptions:
    """How a cluster is divided: cells, gateways that know them by reports of an age, and how gateways choose."""

    rule: CellRule = field(default_factory=CellRule)
    cells: int = 1
    gateways: int = 1
    stale_s: float = 0.0  # the age that a report reaches before the next
    choices: int = 0  # cells that a gateway compares, at random; 0: all
    seed: int = 0


class Lego:
    """Cells of GPUs, and gateways that route requests to them."""

    def __init__(self, options: LegoOptions | None = None, preload: Preload = ()) -> None:
        self._options = LegoOptions() if options is None else options
        self._preload = preload
        self._requests: dict[int, Request] = {}
        self._rng = random.Random(self._options.seed)
        self.notes: dict[str, float] = {}

    def start(self, cluster: SimCluster) -> None:
        """Put what is preloaded on the GPUs and tell their cells of them."""
        self._cluster = cluster
        options = self._options
        self.cells = [Cell(cluster.setting.costs, options.rule) for _ in range(options.cells)]
        self._cell_of = [gpu.id * options.cells // len(cluster.gpus) for gpu in cluster.gpus]
        self._routers = [
            Router(options.cells, gateways=options.gateways, choices=options.choices) for _ in range(options.gateways)
        ]
        for gpu in cluster.gpus:
            models = self._preload.get(gpu.id, ()) if isinstance(self._preload, Mapping) else self._preload
            cluster.preload(gpu.id, models)
            self._tell(self._cell_of[gpu.id], WorkerJoined(gpu.id, gpu.memory_bytes, frozenset(gpu.resident)))
        self._reported_s = float("-inf")

    def arrive(self, request: Request) -> None:
        """Route a request to a cell and offer it there."""
        cluster, options = self._cluster, self._options
        work = cluster.setting.work(request.workflow, request.scale)
        cells: tuple[int, ...] = (0,)
        if options.cells > 1 or options.stale_s:
            self._report()
            router = self._routers[request.id % options.gateways]
            route = router.route(work, request.deadline_s, cluster.now, self._rng)
            if isinstance(route, NoRoute):
                cluster.reject(request, route.reason)
                return
            cells = (route.cell, *route.others)
        self._requests[request.id] = request
        group, tenant = request.workflow, request.tenant
        job = Job(request.id, work, request.at_s, request.deadline_s, group, tenant, request.value)
        for number in cells[:-1]:
            if self._takes(number, Offered(job)):
                return
        self._tell(cells[-1], Offered(job))

    def _takes(self, cell: int, offered: Offered) -> bool:
        """Offer a job to a cell; one that refuses has no other decisions about it."""
        decisions = self.cells[cell].handle(offered, self._cluster.now)
        is_refused = any(isinstance(each, Rejected) for each in decisions)
        for decision in decisions:
            if not isinstance(decision, Rejected):
                self._obey(cell, decision)
        return not is_refused

    def _report(self) -> None:
        """Bring the reports of all cells to all gateways, if it is time."""
        now = self._cluster.now
        if now < self._reported_s + self._options.stale_s:
            return
        self._reported_s = now
        views = [cell.view(now) for cell in self.cells]
        for router in self._routers:
            for number, view in enumerate(views):
                router.report(number, view)

    def _tell(self, cell: int, event: Event) -> None:
        for decision in self.cells[cell].handle(event, self._cluster.now):
            self._obey(cell, decision)

    def _obey(self, cell: int, decision: Decision) -> None:
        cluster = self._cluster
        match decision:
            case Rejected(job, _, reason):
                cluster.reject(self._requests.pop(job.id), reason)
            case Shed(job, reason):
                cluster.shed(self._requests.pop(job.id), reason)
            case Finished(job):
                cluster.finish(self._requests.pop(job.id))
            case Run(call):
                kind = "split" if len(call.workers) > 1 else "batch" if len(call.lanes) > 1 else "run"
                label = "+".join(lane.job.work.shape.name for lane in call.lanes)
                needed = _needed(call)
                cluster.execute(call.workers, call.seconds, needed, self._ended, cell, call, kind=kind, label=label)
            case Load(worker, models, evict):
                for model in evict:
                    cluster.evict(worker, model)
                cluster.load(worker, models, self._loaded, cell, worker, frozenset(models))
            case Admitted():
                pass

    def _ended(self, cell: int, call: Call) -> None:
        self._tell(cell, CallEnded(call.id))

    def _loaded(self, cell: int, worker: int, models: frozenset[str]) -> None:
        self._tell(cell, Loaded(worker, models))


def _needed(call: Call) -> frozenset[str]:
    """What a worker must hold for the call: the helper of a split needs no encoders and no decoder."""
    if len(call.workers) == 1:
        return call.models
    shape = call.lanes[0].job.work.shape
    return frozenset((shape.backbone, *shape.controlnets)) & call.models
