"""A model of lego_serve: its own admission, forecasts, choice of replica and step batcher over fitted costs.

A job is admitted, encodes its prompt, takes its steps in the continuous batch of one backbone replica, and is decoded.
Its nodes compute on cores that all of them share; between nodes the seconds of a hand-over pass.  What decides is the
product's; only the clock, the cores and the seconds are this module's.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.prediction.costs import ServerCosts, step_work
from benchmarks.prediction.systems.addon_loads import AddonLoads
from benchmarks.prediction.systems.backbone import Lane, SimulatedBackbone
from benchmarks.prediction.systems.cores import Cores
from benchmarks.prediction.systems.nodes import SimulatedNode
from benchmarks.prediction.systems.server import IMAGE, Answer
from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.core.placement.job_pace import JobPace
from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolJob
from lego_serve.core.scheduling.admission import AdmissionLimits, Load, Reject, admit
from lego_serve.core.scheduling.routing import Outstanding
from lego_serve.serving.coordinator.placement import KEPT_FREE, UNKNOWN_S
from lego_serve.sim.engine import Engine
from loadgen.addons.request import AddonsRequest
from loadgen.client import Reply
from loadgen.goodput.workload import WorkflowRequest
from loadgen.traffic import ImageRequest

FULL = Reply(None, "429: too many requests are pending", 429)
LATE = Reply(None, "429: would be late", 429)
EXPIRED = Reply(None, "504: deadline exceeded", 504)


@dataclass(frozen=True, slots=True)
class ServerLayout:
    """How the server is deployed: backbone replicas, the lane policy, and how many jobs may be pending."""

    backbones: int = 2
    lane_policy: str = "least_slack"
    max_pending: int = 256


@dataclass(frozen=True, slots=True)
class AddonCaches:
    """What the LoRA node keeps, from which backbones have adapters in milliseconds, and each backbone's ControlNets."""

    adapters: AddonLoads
    controlnets: Mapping[str, AddonLoads]  # by replica


@dataclass(slots=True)
class _InFlight:
    request: ImageRequest
    job: Job
    answer: Answer
    replica: str = ""
    stats: dict[str, TaskStats] = field(default_factory=dict)
    has_ended: bool = False


class SimulatedLego:
    """One gateway, one text encoder, one decoder, and backbone replicas of a single thread each."""

    def __init__(
        self,
        engine: Engine,
        cores: int,
        costs: ServerCosts,
        layout: ServerLayout,
        text_rows: int,
        caches: AddonCaches | None = None,
        seed: int = 0,
    ) -> None:
        self._engine, self._costs, self._text_rows, self._caches = engine, costs, text_rows, caches
        shared = Cores(engine, cores)
        self._encoder = SimulatedNode(engine, shared, costs.encode, costs.crowding, costs.encode_batch)
        self._decoder = SimulatedNode(engine, shared, costs.decode, costs.crowding, 1)
        names = [f"backbone-{number}" for number in range(layout.backbones)]
        self._backbones = {name: SimulatedBackbone(engine, shared, costs, layout.lane_policy) for name in names}
        self._pool, self._pace, self._outstanding = Pool(), JobPace(), Outstanding()
        self._pool.report(dict.fromkeys(names, ()))
        self._limits, self._pending = AdmissionLimits(layout.max_pending), 0
        self._rng, self._count = random.Random(seed), 0

    def arrive(self, request: ImageRequest, deadline_s: float | None, answer: Answer) -> None:
        """Take a request; half of what is outside of jobs passes before its deadline counts, half after its end."""
        half_s = self._costs.outside_s / 2
        self._engine.after(
            half_s, self._admit, request, deadline_s, lambda reply: self._engine.after(half_s, answer, reply)
        )

    def _admit(self, request: ImageRequest, deadline_s: float | None, answer: Answer) -> None:
        self._count += 1
        workflow = request.workflow if isinstance(request, WorkflowRequest) else ""
        inputs = {"width": request.width, "height": request.height, "steps": request.steps, "n": 1}
        due_s = None if deadline_s is None else self._engine.now + deadline_s
        job = Job(str(self._count), workflow, inputs, self._engine.now, due_s)
        if isinstance(admit(self._limits, Load(self._pending)), Reject):
            answer(FULL)
            return
        seconds = self._pace.seconds(job)
        made = self._pool_job(job, seconds or UNKNOWN_S)
        if due_s is not None and seconds is not None:
            forecast = self._pool.offer(made, self._engine.now)
            if forecast is not None and forecast.retry_after_s is not None:
                answer(LATE)
                return
        self._begin(_InFlight(request, job, answer), made)

    def _pool_job(self, job: Job, seconds: float) -> PoolJob:
        if job.deadline_s is None:
            return PoolJob(job.id, seconds)
        return PoolJob(job.id, seconds, deadline_s=job.deadline_s - KEPT_FREE * (job.deadline_s - job.submitted_s))

    def _begin(self, flight: _InFlight, made: PoolJob) -> None:
        self._pending += 1
        self._pool.add(made, self._engine.now)
        if flight.job.deadline_s is not None:
            self._engine.at(flight.job.deadline_s, self._expire, flight)
        self._hand_over("encode", self._encode, flight)

    def _hand_over(self, kind: str, then: Callable[[_InFlight], None], flight: _InFlight) -> None:
        self._engine.after(self._costs.handover_s.get(kind, 0.0), then, flight)

    def _encode(self, flight: _InFlight) -> None:
        if not flight.has_ended:
            self._encoder.run(1.0, lambda took_s: self._encoded(flight, took_s))

    def _encoded(self, flight: _InFlight, took_s: float) -> None:
        if flight.has_ended:
            return
        flight.stats["encode"] = TaskStats(run_s=took_s)
        request = flight.request
        weight = float(request.width * request.height * request.steps * (2 if request.guidance > 1.0 else 1))
        flight.replica = self._rng.choice(self._outstanding.least(list(self._backbones)))
        self._outstanding.place(flight.job.id, flight.replica, weight)
        self._hand_over("denoise", self._load, flight)

    def _load(self, flight: _InFlight) -> None:
        """Wait for adapters and ControlNets, both at the same time."""
        request, caches = flight.request, self._caches
        if caches is None or not isinstance(request, AddonsRequest):
            self._denoise(flight)
            return
        missing = [2]

        def loaded() -> None:
            missing[0] -= 1
            if not missing[0]:
                self._denoise(flight)

        caches.adapters.fetch(request.adapters, loaded)
        caches.controlnets[flight.replica].fetch([name for name, _ in request.controlnets], loaded)

    def _denoise(self, flight: _InFlight) -> None:
        if flight.has_ended:
            return
        request, job_id = flight.request, flight.job.id
        seconds = self._pace.seconds(flight.job) or UNKNOWN_S

        def stepped(step: int) -> None:
            self._pool.progressed(job_id, seconds * (1.0 - step / request.steps))

        work = (step_work(request, self._costs.addons, self._text_rows),) * request.steps
        lane = Lane(job_id, work, flight.job.deadline_s, stepped, lambda stats: self._denoised(flight, stats))
        self._backbones[flight.replica].add(lane)

    def _denoised(self, flight: _InFlight, stats: TaskStats) -> None:
        flight.stats["denoise"] = stats
        self._outstanding.end(flight.job.id)
        self._hand_over("decode", self._decode, flight)

    def _decode(self, flight: _InFlight) -> None:
        if not flight.has_ended:
            pixels = float(flight.request.width * flight.request.height)
            self._decoder.run(pixels, lambda took_s: self._decoded(flight, took_s))

    def _decoded(self, flight: _InFlight, took_s: float) -> None:
        if not flight.has_ended:
            flight.stats["decode"] = TaskStats(run_s=took_s)
            self._pace.learn(flight.job, flight.stats)
            self._end(flight, IMAGE)

    def _expire(self, flight: _InFlight) -> None:
        if not flight.has_ended:
            if flight.replica:
                self._backbones[flight.replica].cancel(flight.job.id)
            self._end(flight, EXPIRED)

    def _end(self, flight: _InFlight, reply: Reply) -> None:
        flight.has_ended = True
        self._pending -= 1
        self._outstanding.end(flight.job.id)
        self._pool.end(flight.job.id, self._engine.now)
        flight.answer(reply)
