"""Whole pipelines on any GPU, swapped in when they are needed, after Clockwork (OSDI '20).

As DiFlow's artifact codes it, a GPU holds one pipeline, and the first idle GPU takes the request whatever it holds.
The competent form keeps as many pipelines as fit, takes the GPU where the request ends first, drops what cannot end in
time, and begins with the pipelines placed by known popularity.  Pipelines share no models in either.
"""

from collections import deque

from lego_serve.sim.cluster import SimCluster
from lego_serve.sim.policies.static import Placement
from lego_serve.sim.workload import Request


class Clockwork:
    """First come first served; pipelines move, requests do not wait for theirs."""

    def __init__(self, placement: Placement | None = None) -> None:
        self._is_competent = placement is not None
        self._placement = placement or {}
        self._queue: deque[Request] = deque()

    def start(self, cluster: SimCluster) -> None:
        """Begin with the pipelines that are placed, as far as they fit."""
        self._cluster = cluster
        self._idle = {gpu.id for gpu in cluster.gpus}
        self._free_s: dict[int, float] = {}  # when a GPU is expected to be free
        self._held: dict[int, dict[str, None]] = {gpu.id: {} for gpu in cluster.gpus}  # the least recently used first
        for name, gpus in self._placement.items():
            for gpu in gpus:
                if self._fits(gpu, name):
                    self._held[gpu][name] = None
                    cluster.preload(gpu, sorted(cluster.setting.work(name).models))

    def _fits(self, gpu: int, *names: str) -> bool:
        setting = self._cluster.setting
        sizes = (setting.costs.size_bytes(setting.work(each).models) for each in (*self._held[gpu], *names))
        return sum(sizes) <= setting.memory_bytes

    def arrive(self, request: Request) -> None:
        """Queue a request."""
        self._queue.append(request)
        self._serve()

    def _serve(self) -> None:
        cluster = self._cluster
        waiting: deque[Request] = deque()
        while self._queue and self._idle:
            request = self._queue.popleft()
            work = cluster.setting.work(request.workflow, request.scale)
            swap_s = cluster.setting.costs.load_s(work.models)
            holders = [gpu for gpu in self._idle if request.workflow in self._held[gpu]]
            gpu = min(holders) if holders and self._is_competent else min(self._idle)
            load_s = 0.0 if gpu in holders else swap_s
            if load_s and self._is_competent and self._ends_sooner_waiting(request, load_s):
                waiting.append(request)
                continue
            ahead_s = load_s + work.solo_s if self._is_competent else 0.0
            if cluster.now + ahead_s > request.deadline_s + 1e-9:
                cluster.shed(request, "it cannot end in time" if ahead_s else "its time is over")
                continue
            self._idle.discard(gpu)
            self._free_s[gpu] = cluster.now + load_s + work.solo_s
            self._swap_in(gpu, request.workflow)
            missing = sorted(work.models - cluster.gpus[gpu].resident.keys())
            there_s = cluster.load(gpu, missing, lambda: None)
            cluster.engine.at(max(there_s, cluster.now + load_s), self._run, gpu, request)
        self._queue.extendleft(reversed(waiting))

    def _ends_sooner_waiting(self, request: Request, load_s: float) -> bool:
        """Whether a busy GPU that has the pipeline is free before an idle one could load it."""
        free_s = (self._free_s[gpu] for gpu in self._free_s if request.workflow in self._held[gpu])
        return min(free_s, default=float("inf")) < self._cluster.now + load_s

    def _swap_in(self, gpu: int, name: str) -> None:
        held, setting = self._held[gpu], self._cluster.setting
        held.pop(name, None)
        while held and (not self._is_competent or not self._fits(gpu, name)):
            del held[next(iter(held))]
        held[name] = None
        kept = frozenset().union(*(setting.work(each).models for each in held))
        for model in list(self._cluster.gpus[gpu].resident):
            if model not in kept:
                self._cluster.evict(gpu, model)

    def _run(self, gpu: int, request: Request) -> None:
        work = self._cluster.setting.work(request.workflow, request.scale)
        label = request.workflow
        self._cluster.execute((gpu,), work.solo_s, work.models, self._ended, gpu, request, label=label)

    def _ended(self, gpu: int, request: Request) -> None:
        self._cluster.finish(request)
        self._idle.add(gpu)
        self._serve()
