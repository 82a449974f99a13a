"""A runner that answers at once, so that only HTTP is under test."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from lego_serve.core.adapter_files import PassedOver
from lego_serve.core.addons import AdapterFacts
from lego_serve.core.editing.reuse import ReuseStats
from lego_serve.core.jobs.forecast import Forecast
from lego_serve.core.jobs.job import GeneratedImage, Job, JobProgress, JobResult, JobState, TaskStats
from lego_serve.core.jobs.journal import Journal
from lego_serve.core.jobs.ports import CheckpointKeeper
from lego_serve.core.nodes.requests import (
    AdapterAdminRequest,
    ListAdapterNames,
    ListAdapters,
    ListTemplateBytes,
    MeasureTemplate,
    ModelAdapters,
    RegisterAdapter,
    RemoveAdapter,
    ReplicaLoad,
    SeenReplica,
    ShowAdapter,
    TemplateSize,
)
from lego_serve.core.scheduling.autoscaling import ReplicaBounds, ScaleDecision
from lego_serve.core.scheduling.scale_board import NodeScale, ScaleBoard
from lego_serve.core.values import NodeRequest
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import CapacityError, NotFound, RequestError
from lego_serve.workflow_files import built_in_workflows

ADAPTERS: Mapping[str, AdapterFacts] = {
    "b": {"registered": True, "rank": 4, "bytes": 1000, "resident": ["lora", "backbone:r1"]},
    "a": {"registered": False, "rank": 32, "bytes": 2000, "resident": None},
}
PASSED_OVER = (PassedOver("My Style.safetensors", "Its name is no id: register it."),)


@cache
def tiny_workflows() -> dict[str, Workflow]:
    """Those of lego-tiny, read once."""
    return {name: w for name, w in built_in_workflows().items() if w.models == {"lego-tiny"}}


class SomethingOfEach(dict[str, int]):
    """The bytes that a replica keeps of every image that it is asked about."""

    def get(self, key: str, default: object = None) -> int:  # type: ignore[override]
        """The same of each."""
        return 5000


class FakeRunner:
    """Answers every job with grey images, or raises ``error``, or waits for ``gate``."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.cancelled: list[str] = []
        self.waiting: list[Job] = []
        self.asked_to_cancel: list[str] = []
        self.adapter_requests: list[tuple[str | None, AdapterAdminRequest]] = []
        self.template_requests: list[NodeRequest[Any]] = []
        self.template_error: Exception | None = None
        self.reuse: ReuseStats | None = None
        self.asked_to_pause: list[tuple[str, bool]] = []
        self.error: Exception | None = None
        self.checks: list[tuple[str, float]] = []  # of prompts, by whose and of what weight
        self.pixels: Callable[[int], bytes] = bytes  # of images of so many bytes
        self.gate: asyncio.Event | None = None
        self.stats = {"latents": TaskStats(0.25, 1.5, False, 1, (1.5,), (1,))}
        self.names_gate: asyncio.Event | None = None  # where the names of adapters wait
        self.in_flight = 0
        self.more: dict[str, Workflow] = {}
        self.progress: list[JobProgress] = []
        self.is_ready = True
        self.journal = Journal()
        self.expects: Forecast | None = None
        self.expects_of: dict[str, Forecast] = {}  # in place of that one, by tier
        self.offered: list[str] = []
        self.offer_gate: asyncio.Event | None = None
        self.withdrawn: list[tuple[str, bool]] = []
        self.pins: list[tuple[str, ReplicaBounds | None]] = []
        self.board = ScaleBoard({"lego-tiny.backbone": NodeScale(1, ReplicaBounds(1, 2))})

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """Those of lego-tiny, and more."""
        return tiny_workflows() | self.more

    def now(self) -> float:
        """A clock that stands still."""
        return 100.0

    async def offer(self, job: Job) -> Forecast | None:
        """As told, once it is let go on."""
        self.offered.append(job.id)
        if self.offer_gate is not None:
            await self.offer_gate.wait()
        return self.expects_of.get(job.tier.tier, self.expects)

    def withdraw(self, job_id: str) -> None:
        """It is noted whether the job ran."""
        self.withdrawn.append((job_id, any(job.id == job_id for job in self.jobs)))

    async def run(
        self,
        job: Job,
        tell: Callable[[JobProgress], None] | None = None,
        checkpoints: CheckpointKeeper | None = None,
    ) -> JobResult:
        """Tell and answer as told."""
        self.checkpoints = checkpoints
        self.loop = asyncio.get_running_loop()
        self.jobs.append(job)
        for progress in self.progress if tell is not None else ():
            tell(progress)  # type: ignore[misc]
            await asyncio.sleep(0)
        self.in_flight += 1
        self.waiting.append(job)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            raise
        finally:
            self.in_flight -= 1
            self.waiting.remove(job)
        width, height, n, seed = (int(str(job.inputs[k])) for k in ("width", "height", "n", "seed"))
        images = tuple(GeneratedImage(width, height, self.pixels(3 * width * height), seed + i) for i in range(n))
        stats = {name: replace(each, reuse=self.reuse or each.reuse) for name, each in self.stats.items()}
        return JobResult(images, 0.25, {"latents": 1.5}, 1, stats)

    async def replicas(self) -> Mapping[str, str]:
        """One."""
        return {"r1": "lego-tiny.backbone"}

    async def loads(self) -> list[SeenReplica]:
        """The one, with little in hand."""
        return [SeenReplica("r1", "lego-tiny", "backbone", ReplicaLoad(2, 1, 0.02, (1, 2), machine="here", room=6))]

    async def scales(self) -> ScaleBoard:
        """What each node is to have: what was pinned, else one."""
        return self.board

    async def pin(self, node: str, bounds: ReplicaBounds | None) -> None:
        """Known is only the backbone."""
        if node != "lego-tiny.backbone":
            raise NotFound(f"There is no node `{node}`; there is lego-tiny.backbone.", code="node_not_found")
        self.pins.append((node, bounds))
        self.journal.decide("pin", node, "an operator asked", self.now(), by="operator", node=node)
        before, limits = self.board.nodes[node].target, bounds or ReplicaBounds(1, 2)
        decision = ScaleDecision(limits.clamp(before), "bounds")
        self.board.note(node, before, decision, limits, time.time(), is_pinned=bounds is not None)

    async def drain(self, replica: str) -> int:
        """Known is only r1."""
        if replica != "r1":
            raise NotFound("There is no backbone replica of this id.", code="replica_not_found")
        return 3

    async def adapters(self, model: str | None, request: AdapterAdminRequest) -> ModelAdapters:
        """Return those of lego-tiny, or the named one; the registry is full for the name `taken`."""
        if isinstance(request, ListAdapterNames) and self.names_gate is not None:
            await self.names_gate.wait()
        self.adapter_requests.append((model, request))
        match request:
            case RegisterAdapter(name="taken"):
                raise CapacityError("No more.", code="registry_full")
            case RegisterAdapter(name=name):
                return ModelAdapters("lego-tiny", {name: {"rank": 4, "bytes": 1000}})
            case RemoveAdapter():
                return ModelAdapters("lego-tiny")
            case ShowAdapter(name=name) if name not in ADAPTERS:
                raise NotFound("There is no adapter of this name.", param="id", code="adapter_not_found")
            case ShowAdapter(name=name):
                return ModelAdapters("lego-tiny", {name: ADAPTERS[name]})
            case ListAdapterNames():
                return ModelAdapters("lego-tiny", ADAPTERS)
            case ListAdapters():
                return ModelAdapters("lego-tiny", ADAPTERS, PASSED_OVER)

    async def check_prompt(self, model: str, prompt: str, tenant: str, weight: float) -> None:
        """A prompt of more than a hundred words is too long."""
        self.checks.append((tenant, weight))
        if len(prompt.split()) > 100:
            raise RequestError("`prompt` is too long for this model.", param="prompt", code="prompt_too_long")

    async def templates(self, model: str, request: NodeRequest[Any]) -> Mapping[str, Any]:
        """A row of an entry takes 80 bytes, 100 with text; one of two replicas keeps something of every image."""
        self.template_requests.append(request)
        if self.template_error is not None:
            raise self.template_error
        if isinstance(request, MeasureTemplate):
            rows = request.width * request.height // 256
            evaluations = 0 if request.grid is None else request.grid.evaluations
            begins = tuple(index * request.steps // evaluations for index in range(evaluations))
            return dict.fromkeys(("r1", "r2"), TemplateSize(rows, 80 * rows, 20 * rows, begins))
        if isinstance(request, ListTemplateBytes):
            return {"r1": {}, "r2": SomethingOfEach()}
        return {"r1": 0, "r2": 5000}

    def states(self) -> list[JobState]:
        """Those that wait at the gate."""
        return [JobState(job.id, job.workflow, job.tenant, 2.5, {"latents": "running"}) for job in self.waiting]

    def story(self, job_id: str) -> tuple[str, ...]:
        """Nothing is known."""
        return ()

    async def pause(self, job_id: str, paused: bool) -> bool:
        """Known is job_known."""
        self.asked_to_pause.append((job_id, paused))
        return job_id == "job_known"

    def cancel(self, job_id: str) -> bool:
        """Known are job_known and those that wait."""
        self.asked_to_cancel.append(job_id)
        return job_id == "job_known" or any(job.id == job_id for job in self.waiting)
