"""Dedicated GPUs for each workflow: whole pipelines, first come first served, one request at a time.

As the artifact of DiFlow runs it ("Diffusers"), a request that waited longer than its limit is dropped when its turn
comes, and others run even if they must end late.  ``drops_hopeless`` also drops those, which the competent form does.
:func:`packed` places as many pipelines on each GPU as its memory holds, for a popularity that is known beforehand.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from lego_serve.sim.cluster import Setting, SimCluster
from lego_serve.sim.workload import Request

Placement = Mapping[str, Sequence[int]]  # the GPUs that may run each workflow


class Static:
    """Each workflow on GPUs of its own, or on GPUs that it shares with others."""

    def __init__(self, placement: Placement, *, drops_hopeless: bool = False) -> None:
        self._gpus_of = {name: tuple(sorted(gpus)) for name, gpus in placement.items() if gpus}
        self._drops_hopeless = drops_hopeless
        self._queues: dict[tuple[int, ...], deque[Request]] = {gpus: deque() for gpus in self._gpus_of.values()}
        self._queues_of: dict[int, list[deque[Request]]] = {}
        for gpus, queue in self._queues.items():
            for gpu in gpus:
                self._queues_of.setdefault(gpu, []).append(queue)
        self._idle = set(self._queues_of)

    def start(self, cluster: SimCluster) -> None:
        """Put all models of a GPU's workflows on it."""
        self._cluster = cluster
        self._seconds = {name: cluster.setting.work(name).solo_s for name in self._gpus_of}
        self._models = {name: cluster.setting.work(name).models for name in self._gpus_of}
        for name, gpus in self._gpus_of.items():
            for gpu in gpus:
                cluster.preload(gpu, sorted(self._models[name]))

    def arrive(self, request: Request) -> None:
        """Run a request on the first idle GPU that may, or queue it."""
        gpus = self._gpus_of.get(request.workflow)
        if gpus is None:
            self._cluster.reject(request, "no GPU runs this workflow")
            return
        self._queues[gpus].append(request)
        gpu = next((each for each in gpus if each in self._idle), None)
        if gpu is not None:
            self._serve(gpu)

    def _seconds_of(self, request: Request) -> float:
        if request.scale == 1.0:
            return self._seconds[request.workflow]
        return self._cluster.setting.work(request.workflow, request.scale).solo_s

    def _serve(self, gpu: int) -> None:
        cluster = self._cluster
        queues = self._queues_of[gpu]
        while waiting := [queue for queue in queues if queue]:
            request = min(waiting, key=lambda queue: (queue[0].at_s, queue[0].id)).popleft()
            seconds = self._seconds_of(request)
            ahead_s = seconds if self._drops_hopeless else 0.0
            if cluster.now + ahead_s > request.deadline_s + 1e-9:
                cluster.shed(request, "it cannot end in time" if ahead_s else "its time is over")
                continue
            self._idle.discard(gpu)
            models = self._models[request.workflow]
            cluster.execute((gpu,), seconds, models, self._ended, gpu, request, label=request.workflow)
            return

    def _ended(self, gpu: int, request: Request) -> None:
        self._cluster.finish(request)
        self._idle.add(gpu)
        self._serve(gpu)


def packed(setting: Setting, shares: Mapping[str, float], *, shares_models: bool = True) -> dict[str, list[int]]:
    """Place workflows by their known load: the one with most work for each copy next, where the least is to do.

    Workflows on one GPU share the models that both run, unless pipelines are whole.
    """
    costs = setting.costs
    load = {name: shares.get(name, 0.0) * setting.work(name).solo_s for name in setting.workflows}
    placement: dict[str, list[int]] = {name: [] for name in setting.workflows}
    held: list[set[str]] = [set() for _ in range(setting.gpus)]
    used = [0] * setting.gpus
    open_names = sorted(setting.workflows)
    while open_names:
        name = max(open_names, key=lambda each: load[each] / len(placement[each]) if placement[each] else 1e9)
        models = setting.work(name).models
        needs = [costs.size_bytes(models - held[gpu] if shares_models else models) for gpu in range(setting.gpus)]
        able = [
            gpu
            for gpu in range(setting.gpus)
            if gpu not in placement[name] and used[gpu] + needs[gpu] <= setting.memory_bytes
        ]
        if not able:
            open_names.remove(name)
            continue
        busy = [0.0] * setting.gpus
        for other, gpus in placement.items():
            for gpu in gpus:
                busy[gpu] += load[other] / len(gpus)
        is_first = not placement[name]
        gpu = min(able, key=lambda each: (needs[each] > 0 and not is_first, busy[each], each))
        placement[name].append(gpu)
        held[gpu] |= models
        used[gpu] += needs[gpu]
    return placement
