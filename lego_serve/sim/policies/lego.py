"""Our own policy: the classes of the core, driven as a server drives them; orders go to the simulated machines."""

from collections.abc import Mapping, Sequence

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
from lego_serve.core.cluster.state import Call, Job
from lego_serve.sim.cluster import SimCluster
from lego_serve.sim.workload import Request


class Lego:
    """One cell over all GPUs."""

    def __init__(self, rule: CellRule | None = None, preload: Mapping[int, Sequence[str]] | Sequence[str] = ()) -> None:
        self._rule = CellRule() if rule is None else rule
        self._preload = preload
        self._requests: dict[int, Request] = {}

    def start(self, cluster: SimCluster) -> None:
        """Put what is preloaded on the GPUs and tell the cell of them."""
        self._cluster = cluster
        self.cell = Cell(cluster.setting.costs, self._rule)
        for gpu in cluster.gpus:
            models = self._preload.get(gpu.id, ()) if isinstance(self._preload, Mapping) else self._preload
            cluster.preload(gpu.id, models)
            self._tell(WorkerJoined(gpu.id, gpu.memory_bytes, frozenset(gpu.resident)))

    def arrive(self, request: Request) -> None:
        """Offer a request to the cell."""
        self._requests[request.id] = request
        work = self._cluster.setting.work(request.workflow, request.scale)
        job = Job(request.id, work, request.at_s, request.deadline_s, request.workflow, request.tenant, request.value)
        self._tell(Offered(job))

    def _tell(self, event: Event) -> None:
        for decision in self.cell.handle(event, self._cluster.now):
            self._obey(decision)

    def _obey(self, decision: Decision) -> None:
        cluster = self._cluster
        match decision:
            case Rejected(job, _, reason):
                cluster.reject(self._requests.pop(job.id), reason)
            case Shed(job, reason):
                cluster.shed(self._requests.pop(job.id), reason)
            case Finished(job):
                cluster.finish(self._requests.pop(job.id))
            case Run(call):
                label = "+".join(lane.job.work.shape.name for lane in call.lanes)
                kind = "split" if len(call.workers) > 1 else "batch" if len(call.lanes) > 1 else "run"
                cluster.execute(call.workers, call.seconds, _needed(call), self._ended, call, kind=kind, label=label)
            case Load(worker, models, evict):
                for model in evict:
                    cluster.evict(worker, model)
                cluster.load(worker, models, self._loaded, worker, frozenset(models))
            case Admitted():
                pass

    def _ended(self, call: Call) -> None:
        self._tell(CallEnded(call.id))

    def _loaded(self, worker: int, models: frozenset[str]) -> None:
        self._tell(Loaded(worker, models))


def _needed(call: Call) -> frozenset[str]:
    """What a worker must hold for the call: the helper of a split needs no encoders and no decoder."""
    if len(call.workers) == 1:
        return call.models
    shape = call.lanes[0].job.work.shape
    return frozenset((shape.backbone, *shape.controlnets)) & call.models
