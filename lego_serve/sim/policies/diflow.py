"""DiFlow's scheduler as its artifact ships it (SOSP '26): every node of a request's graph is placed on its own.

The rule, in our words.  Ready nodes are served by the arrival of their request, inside one by depth.  A worker can be
chosen while at most 10 ms are reserved on it; the one with the least sum of reservations, loading and running wins.
Nodes of one model run as a batch, of the size for latency while every ready node could have a worker of its own, else
of the size for throughput.  The node that advances a request's latents stays on the worker that ran it first, busy or
not.  Admission refuses while the batch-1 medians of what is in flight, by worker or of one request, exceed the slack.
"""

import math
from bisect import insort
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lego_serve.core.cluster.work import JobWork
from lego_serve.sim.cluster import SimCluster
from lego_serve.sim.workload import Request

RESERVED_S = 0.010  # a worker with more reserved is not chosen
ADVANCE_S = 0.0002  # the node that advances the latents


@dataclass(frozen=True, slots=True)
class DiflowOptions:
    """What differs between runs: admission, what a node and a hop cost, and the batches by model."""

    admits_all: bool = False
    node_s: float = 0.0045  # of each node on its worker, from the artifact's medians in the system
    hop_s: float = 0.002  # from a node's end until the next can start
    advances_inline: bool = False  # True: advancing the latents costs nothing and waits for nobody
    batches: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # (latency, throughput)


@dataclass(slots=True)
class _Job:
    request: Request
    work: JobWork
    left_s: float  # the sum of the medians of its unfinished nodes
    waiting: Counter[tuple[str, int]] = field(default_factory=Counter)  # unfinished nodes of each stage
    pinned: int | None = None


@dataclass(slots=True, order=True)
class _Node:
    order: tuple[float, int, int]  # arrival, depth, number
    job: _Job = field(compare=False)
    model: str = field(compare=False)  # "" advances the latents
    stage: tuple[str, int] = field(compare=False)
    seconds: float = field(compare=False)  # the median at batch one


@dataclass(slots=True)
class _Worker:
    id: int
    queue: deque[tuple[Sequence[_Node], float]] = field(default_factory=deque)
    reserved_s: float = 0.0
    is_running: bool = False


class Diflow:
    """First come first served by node, argmin over workers with little reserved, LRU."""

    def __init__(self, options: DiflowOptions = DiflowOptions(), preload: Sequence[str] = ()) -> None:
        self._options = options
        self._preload = preload
        self._jobs: dict[int, _Job] = {}
        self._ready: list[_Node] = []
        self._number = 0

    def start(self, cluster: SimCluster) -> None:
        """Put what is preloaded on every GPU."""
        self._cluster = cluster
        self._costs = cluster.setting.costs
        self._workers = [_Worker(gpu.id) for gpu in cluster.gpus]
        for gpu in cluster.gpus:
            cluster.preload(gpu.id, self._preload)

    def arrive(self, request: Request) -> None:
        """Admit or refuse a request, and queue its first nodes."""
        work = self._cluster.setting.work(request.workflow, request.scale)
        slack_s = request.slo_s - work.solo_s
        if not self._options.admits_all and self._is_overloaded(slack_s):
            self._cluster.reject(request, "the medians of what is in flight exceed the slack")
            return
        job = self._jobs[request.id] = _Job(request, work, self._median_s(work))
        for branch in range(work.shape.branches):
            for model in work.shape.encoders:
                self._add(job, model, ("encode", branch), work.shape.steps + 3)
        for model in work.shape.prepare:
            self._add(job, model, ("encode", 0), work.shape.steps + 2)
        if not job.waiting:
            self._step(job, 0)
        self._dispatch()

    def _is_overloaded(self, slack_s: float) -> bool:
        left = [job.left_s for job in self._jobs.values()]
        if len(self._workers) > len(left):
            return False
        return max(sum(left) / len(self._workers), max(left)) > slack_s

    def _median_s(self, work: JobWork) -> float:
        shape, node_s = work.shape, self._options.node_s
        nodes = shape.branches * (len(shape.encoders) + shape.steps * (1 + len(shape.controlnets))) + len(shape.prepare)
        advancing = 0 if self._options.advances_inline else shape.steps
        return work.solo_s + node_s * (nodes + 1 + advancing) + ADVANCE_S * advancing

    def _add(self, job: _Job, model: str, stage: tuple[str, int], depth: int) -> None:
        self._number += 1
        seconds = self._costs.seconds(model, 1) if model else ADVANCE_S
        if stage[0] == "step":
            seconds *= job.work.scale
        job.waiting[stage] += 1
        insort(self._ready, _Node((job.request.at_s, -depth, self._number), job, model, stage, seconds))

    def _step(self, job: _Job, step: int) -> None:
        shape = job.work.shape
        depth = shape.steps - step + 1
        for _ in range(shape.branches):
            for model in shape.controlnets:  # their residuals are awaited by the backbone as it runs
                self._add(job, model, ("step", step), depth + 1)
            self._add(job, shape.backbone, ("step", step), depth)

    def _dispatch(self) -> None:
        while self._ready and any(worker.reserved_s <= RESERVED_S for worker in self._workers):
            group = self._group()
            head = group[0]
            if not head.model and head.job.pinned is not None:
                self._send(self._workers[head.job.pinned], group, 0.0)
                continue
            worker, seconds = self._argmin(group)
            if not head.model:
                head.job.pinned = worker.id
            self._send(worker, group, seconds)

    def _group(self) -> list[_Node]:
        head = self._ready.pop(0)
        latency, throughput = self._options.batches.get(head.model, (1, 1))
        if not head.model or throughput == 1:
            return [head]
        counts = Counter(node.model for node in self._ready)
        needed = sum(math.ceil(n / self._options.batches.get(model, (1, 1))[0]) for model, n in counts.items())
        free = sum(worker.reserved_s <= RESERVED_S for worker in self._workers)
        size = latency if needed <= free else throughput
        group = [head]
        for node in list(self._ready):
            if len(group) == size:
                break
            if node.model == head.model and not node.job.work.shape.controlnets:  # awaited residuals forbid a batch
                group.append(node)
                self._ready.remove(node)
        return group

    def _argmin(self, group: Sequence[_Node]) -> tuple[_Worker, float]:
        model = group[0].model
        run_s = self._run_s(group)
        best, best_s, chosen = None, float("inf"), 0.0
        for worker in self._workers:
            if worker.reserved_s > RESERVED_S:
                continue
            gpu = self._cluster.gpus[worker.id]
            load_s = self._costs.load_s((model,)) if model and model not in gpu.resident else 0.0
            if worker.reserved_s + run_s + load_s < best_s:
                best, best_s, chosen = worker, worker.reserved_s + run_s + load_s, run_s + load_s
        assert best is not None
        return best, chosen

    def _run_s(self, group: Sequence[_Node]) -> float:
        if not group[0].model:
            return ADVANCE_S
        batch = 1 << (len(group) - 1).bit_length()
        is_step = group[0].stage[0] == "step"
        scale = max(node.job.work.scale for node in group) if is_step else 1.0
        return scale * self._costs.seconds(group[0].model, batch)

    def _send(self, worker: _Worker, group: Sequence[_Node], reserved_s: float) -> None:
        worker.reserved_s += reserved_s
        worker.queue.append((group, reserved_s))
        self._run(worker)

    def _run(self, worker: _Worker) -> None:
        if worker.is_running or not worker.queue:
            return
        worker.is_running = True
        group, reserved_s = worker.queue.popleft()
        model = group[0].model
        gpu = self._cluster.gpus[worker.id]
        if not model or model in gpu.resident or not self._costs.size_bytes((model,)):
            self._execute(worker, group, reserved_s)
            return
        for other in list(gpu.resident):  # the least recently used first
            if gpu.free_bytes >= self._costs.size_bytes((model,)):
                break
            self._cluster.evict(worker.id, other)
        self._cluster.load(worker.id, (model,), self._execute, worker, group, reserved_s)

    def _execute(self, worker: _Worker, group: Sequence[_Node], reserved_s: float) -> None:
        model = group[0].model
        is_free = not model and self._options.advances_inline
        seconds = 0.0 if is_free else self._run_s(group) + self._options.node_s
        held = frozenset((model,)) if model and self._costs.size_bytes((model,)) else frozenset()
        label = group[0].job.request.workflow
        self._cluster.execute((worker.id,), seconds, held, self._done, worker, group, reserved_s, label=label)

    def _done(self, worker: _Worker, group: Sequence[_Node], reserved_s: float) -> None:
        worker.is_running = False
        worker.reserved_s = max(0.0, worker.reserved_s - reserved_s)
        for node in group:
            node.job.left_s -= node.seconds + self._options.node_s
            self._cluster.engine.after(self._options.hop_s, self._completed, node)
        self._run(worker)
        self._dispatch()

    def _completed(self, node: _Node) -> None:
        job, (kind, number) = node.job, node.stage
        shape = job.work.shape
        job.waiting[node.stage] -= 1
        if job.waiting[node.stage] == 0:
            del job.waiting[node.stage]
        is_last = not any(stage[0] == kind for stage in job.waiting)
        if kind == "encode" and is_last:
            self._step(job, 0)
        elif kind == "step" and is_last:
            self._add(job, "", ("advance", number), shape.steps - number)
        elif kind == "advance" and number + 1 < shape.steps:
            self._step(job, number + 1)
        elif kind == "advance" and shape.decoder is not None:
            self._add(job, shape.decoder, ("decode", 0), 0)
        elif is_last:
            del self._jobs[job.request.id]
            self._cluster.finish(job.request)
        self._dispatch()
