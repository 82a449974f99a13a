"""Our policy with a number of workers that follows the load: the scaler of the core decides, GPUs start and stop."""

from lego_serve.core.cluster.autoscaling import WORKERS, PoolBounds, Scaler, ScalerRule
from lego_serve.core.cluster.events import WorkerJoined, WorkerLeft
from lego_serve.sim.cluster import SimCluster
from lego_serve.sim.policies.lego import Lego, LegoOptions
from lego_serve.sim.workload import Request

TICK_S = 5.0


class ScaledLego(Lego):
    """One cell whose workers come after ``start_s`` with empty memory, and go when they have nothing to do."""

    def __init__(self, options: LegoOptions, rule: ScalerRule, least: int, start_s: float) -> None:
        super().__init__(options)
        self._scaler_rule = rule
        self._least = least
        self._start_s = start_s

    def start(self, cluster: SimCluster) -> None:
        """Begin with the fewest workers."""
        super().start(cluster)
        self._active = [gpu.id for gpu in cluster.gpus[: self._least]]
        for gpu in cluster.gpus[self._least :]:
            self._tell(0, WorkerLeft(gpu.id))
        budget = len(cluster.gpus)
        self._scaler = Scaler(self._scaler_rule, {WORKERS: PoolBounds(self._least, budget)}, budget)
        self._starting: list[int] = []
        self._next_tick_s = 0.0
        self._counted_s = 0.0
        self.notes = {"gpu_s_active": 0.0, "changes": 0, "most": self._least}

    def arrive(self, request: Request) -> None:
        """Count the work, offer the request, and decide sizes now and then."""
        work = self._cluster.setting.work(request.workflow, request.scale)
        self._scaler.offered(WORKERS, work.paired_s, self._cluster.now)
        super().arrive(request)
        if self._cluster.now >= self._next_tick_s:
            self._next_tick_s = self._cluster.now + TICK_S
            self._tick()

    def _tick(self) -> None:
        cluster = self._cluster
        self._count()
        current = len(self._active) + len(self._starting)
        wanted = self._scaler.decide({WORKERS: current}, cluster.now).workers
        self.notes["changes"] = self.notes["changes"] + (wanted != current)
        free = [gpu.id for gpu in cluster.gpus if gpu.id not in self._active and gpu.id not in self._starting]
        for gpu in free[: max(0, wanted - current)]:
            self._starting.append(gpu)
            cluster.engine.after(self._start_s, self._join, gpu)
        idle = [gpu for gpu in self._active if self._is_idle(gpu)]
        for gpu in idle[: max(0, current - wanted)]:
            self._leave(gpu)

    def _is_idle(self, gpu: int) -> bool:
        worker = self.cells[0].workers[gpu]
        return worker.call is None and not worker.lanes and not worker.loading and not worker.helps

    def _join(self, gpu: int) -> None:
        self._count()
        self._starting.remove(gpu)
        self._active.append(gpu)
        self.notes["most"] = max(self.notes["most"], len(self._active))
        self._tell(0, WorkerJoined(gpu, self._cluster.gpus[gpu].memory_bytes))

    def _leave(self, gpu: int) -> None:
        self._active.remove(gpu)
        self._tell(0, WorkerLeft(gpu))
        for model in list(self._cluster.gpus[gpu].resident):
            self._cluster.evict(gpu, model)

    def _count(self) -> None:
        """Count the GPU seconds since the last change."""
        held = len(self._active) + len(self._starting)
        self.notes["gpu_s_active"] += held * (self._cluster.now - self._counted_s)
        self._counted_s = self._cluster.now
