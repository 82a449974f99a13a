"""The simulated machines: GPUs that run one call at a time, copy models meanwhile, and never hold more than they can.

A policy gives orders through a :class:`SimCluster`.  It learns the true seconds of a call only when the call has ended;
an order that no machine could follow is a :class:`SimulationError`, so no policy can win by cheating.
"""

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lego_serve.core.cluster.profiles import CostModel
from lego_serve.core.cluster.work import JobWork, WorkflowShape
from lego_serve.errors import ConfigError
from lego_serve.sim.engine import Engine
from lego_serve.sim.workload import Request

GIB = 1 << 30
Status = Literal["met", "late", "rejected", "shed", "unfinished"]


class SimulationError(AssertionError):
    """A policy gave an order that no machine could follow."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster and what it serves: GPUs and their memory, costs, workflows, and the share of each in the load."""

    gpus: int
    memory_bytes: int
    costs: CostModel
    workflows: Mapping[str, WorkflowShape]
    shares: Mapping[str, float]
    slo_scale: float = 2.0
    solo_s: Mapping[str, float] = field(default_factory=dict)  # measured elsewhere; by default the profile's sum

    def __post_init__(self) -> None:
        for shape in self.workflows.values():
            size = self.costs.size_bytes(shape.models)
            if size > self.memory_bytes:
                need, has = f"{size / GIB:.1f} GiB", f"{self.memory_bytes / GIB:.1f} GiB"
                raise ConfigError(f"workflow {shape.name}: its models need {need}, a GPU has {has}")
        if self.gpus < 1:
            raise ConfigError(f"gpus: a cluster has at least one, not {self.gpus}")

    def slo_s(self, workflow: str) -> float:
        """The seconds in which a request for the workflow is to be served."""
        solo_s = self.solo_s.get(workflow)
        return self.slo_scale * (self.work(workflow).solo_s if solo_s is None else solo_s)

    def work(self, workflow: str, scale: float = 1.0) -> JobWork:
        """The work of a request for the workflow."""
        shape = self.workflows[workflow]
        return JobWork(shape, self.costs, scale * shape.rows)


@dataclass(frozen=True, slots=True)
class Noise:
    """How the simulated world differs from what policies believe of it."""

    cost_error: float = 0.0  # standard deviation of the logarithm of a call's seconds over the estimate
    hop_s: float = 0.0  # from a call's end to when a policy hears of it
    call_s: float = 0.0  # added to each call on a GPU


EXACT = Noise()


@dataclass(slots=True)
class Gpu:
    """One GPU: what it runs, holds and copies, and how long it did each."""

    id: int
    memory_bytes: int
    resident: dict[str, int] = field(default_factory=dict)  # bytes by model, the least recently used first
    loading: dict[str, float] = field(default_factory=dict)  # when each will be there
    used_bytes: int = 0
    is_busy: bool = False
    running: frozenset[str] = frozenset()
    copying_until_s: float = 0.0
    busy_s: float = 0.0
    load_s: float = 0.0
    loads: int = 0

    @property
    def free_bytes(self) -> int:
        """The bytes that no model holds."""
        return self.memory_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class Span:
    """What a GPU did from when to when, for a Gantt chart."""

    gpu: int
    start_s: float
    end_s: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Residence:
    """A model came to a GPU (1) or went (-1)."""

    at_s: float
    gpu: int
    model: str
    change: int


@dataclass(slots=True)
class Ended:
    """How a request ended."""

    request: Request
    status: Status
    at_s: float
    reason: str = ""


class SimCluster:
    """The GPUs and the fates of all requests."""

    def __init__(self, setting: Setting, noise: Noise = EXACT, seed: int = 0, window_s: float = 0.0) -> None:
        self.setting = setting
        self.engine = Engine()
        self.gpus = [Gpu(number, setting.memory_bytes) for number in range(setting.gpus)]
        self.ended: dict[int, Ended] = {}
        self.spans: list[Span] = []
        self.residences: list[Residence] = []
        self._noise = noise
        self._rng = random.Random(seed)
        self._window_s = window_s

    @property
    def now(self) -> float:
        """The simulated time."""
        return self.engine.now

    def preload(self, gpu: int, models: Iterable[str]) -> None:
        """Put models on a GPU before the simulation starts."""
        for model in models:
            if model not in self.gpus[gpu].resident:
                self._reserve(self.gpus[gpu], model)
                self.gpus[gpu].resident[model] = self.setting.costs.size_bytes((model,))
                self._moved(gpu, model, 1)

    def _moved(self, gpu: int, model: str, change: int) -> None:
        if self.now < self._window_s:
            self.residences.append(Residence(self.now, gpu, model, change))

    def execute(
        self,
        gpus: Collection[int],
        seconds: float,
        models: frozenset[str],
        then: Callable[..., None],
        *arguments: object,
        kind: str = "run",
        label: str = "",
    ) -> float:
        """Run a call on idle GPUs that hold the models, then call back; return its true seconds."""
        error = self._noise.cost_error
        truth = seconds * math.exp(self._rng.gauss(-error * error / 2.0, error)) if error else seconds
        truth += self._noise.call_s
        for number in gpus:
            gpu = self.gpus[number]
            if gpu.is_busy:
                raise SimulationError(f"GPU {number} is busy at {self.now:.3f} s")
            if not models <= gpu.resident.keys():
                raise SimulationError(f"GPU {number} lacks {sorted(models - gpu.resident.keys())}")
            gpu.is_busy, gpu.running = True, models
            gpu.busy_s += truth
            for model in models:  # the most recently used last
                gpu.resident[model] = gpu.resident.pop(model)
            self._record(number, truth, kind, label)
        self.engine.after(truth, self._free, gpus, then, arguments)
        return truth

    def _record(self, gpu: int, seconds: float, kind: str, label: str) -> None:
        if self.now < self._window_s:
            self.spans.append(Span(gpu, self.now, self.now + seconds, kind, label))

    def _free(self, gpus: Collection[int], then: Callable[..., None], arguments: tuple[object, ...]) -> None:
        for number in gpus:
            self.gpus[number].is_busy, self.gpus[number].running = False, frozenset()
        if self._noise.hop_s:
            self.engine.after(self._noise.hop_s, then, *arguments)
        else:
            then(*arguments)

    def load(self, gpu: int, models: Iterable[str], then: Callable[..., None], *arguments: object) -> float:
        """Copy models to a GPU, one after the other, then call back; return when they are there."""
        holder = self.gpus[gpu]
        start = max(self.now, holder.copying_until_s)
        for model in models:
            if model in holder.resident or model in holder.loading:
                continue
            self._reserve(holder, model)
            seconds = self.setting.costs.profile(model).load_s
            self._record(gpu, start + seconds - self.now, "load", model)
            start += seconds
            holder.load_s += seconds
            holder.loads += 1
            holder.loading[model] = start
            self.engine.at(start, self._loaded, holder, model)
        holder.copying_until_s = start
        self.engine.at(start, then, *arguments)
        return start

    def _reserve(self, gpu: Gpu, model: str) -> None:
        size = self.setting.costs.size_bytes((model,))
        if size > gpu.free_bytes:
            raise SimulationError(f"GPU {gpu.id} has {gpu.free_bytes} bytes free, {model} needs {size}")
        gpu.used_bytes += size

    def _loaded(self, gpu: Gpu, model: str) -> None:
        if gpu.loading.pop(model, None) is not None:
            gpu.resident[model] = self.setting.costs.size_bytes((model,))
            self._moved(gpu.id, model, 1)

    def evict(self, gpu: int, model: str) -> None:
        """Free a model's bytes; a running call keeps its models."""
        holder = self.gpus[gpu]
        if model in holder.running:
            raise SimulationError(f"GPU {gpu} runs {model}, which cannot be freed")
        if model not in holder.resident:
            raise SimulationError(f"GPU {gpu} does not hold {model}, which cannot be freed")
        holder.used_bytes -= holder.resident.pop(model)
        self._moved(gpu, model, -1)

    def finish(self, request: Request) -> None:
        """A request's image is there."""
        late = self.now > request.deadline_s + 1e-9
        self._end(request, "late" if late else "met", "")

    def reject(self, request: Request, reason: str) -> None:
        """A request is refused when it comes."""
        self._end(request, "rejected", reason)

    def shed(self, request: Request, reason: str) -> None:
        """A request that was taken is given up."""
        self._end(request, "shed", reason)

    def _end(self, request: Request, status: Status, reason: str) -> None:
        if request.id in self.ended:
            raise SimulationError(f"request {request.id} has ended already")
        self.ended[request.id] = Ended(request, status, self.now, reason)
