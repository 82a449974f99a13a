"""The backbone's node: calls become lanes of the engine, with their adapters and ControlNets."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from lego_serve.core.addons import AdapterStats, ControlNetInput, ControlNetStats, LoadedAdapter, steps_without_adapter
from lego_serve.core.editing.reuse import ReuseStats, TemplateUse
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode, allowed_mode
from lego_serve.core.scheduling.ordering import LANE_POLICIES
from lego_serve.engine.batch_invariance import ensure_batch_invariance
from lego_serve.engine.calibration import calibrate, calibrate_adapters
from lego_serve.engine.lane_state import AdapterUse, LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import TemplateStore
from lego_serve.engine.thread import EngineThread, LaneListener
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.loading import load_backbone
from lego_serve.models.lora.targets import lora_targets_of
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache, AdapterLease, LoraNodeHandle
from lego_serve.serving.nodes.controlnet_sources import ControlNetPlan, ControlNetSources
from lego_serve.serving.nodes.kept_templates import template_info
from lego_serve.serving.nodes.lane_requests import lane_requests
from lego_serve.serving.nodes.remote_controlnet import ControlNetHandle

log = logging.getLogger("lego_serve.nodes")


class BackboneNode:
    """Denoises lanes in a continuous batch."""

    def __init__(
        self,
        spec: ModelSpec,
        lane_policy: str,
        max_step_s: float | str,
        max_rows: int | str,
        checkpoint_every_steps: int,
        batch_invariant: bool,
        bucket_rows: int,
        lora_node: LoraNodeHandle | None = None,
        adapter_bytes: int = 0,
        adapter_mode: str = "grouped",
        controlnets: Sequence[ControlNetPlan] = (),
        controlnet_bytes: int | None = None,
        control_nodes: Mapping[str, ControlNetHandle] | None = None,
        template_bytes: int = 0,
        template_coding: str = "bfloat16",
        tenant_pinned_bytes: int | None = None,
    ) -> None:
        torch.set_num_threads(1)
        if lora_node is not None:
            lora_targets_of(spec)
        backbone, tables = load_backbone(spec)
        backbone.bucket_rows = bucket_rows
        log.info("batch invariance of %s: %s", spec.name, ensure_batch_invariance(backbone, required=batch_invariant))
        limits = StepLimits(
            None if max_step_s == "auto" else float(max_step_s), None if max_rows == "auto" else int(max_rows)
        )
        rates = calibrate(backbone)
        batcher = StepBatcher(
            LANE_POLICIES[lane_policy],
            limits,
            rates,
            allowed_mode(LoraMode(adapter_mode), batch_invariant=batch_invariant),
            None if lora_node is None else calibrate_adapters(backbone),
        )
        self._shelf = None if lora_node is None else AdapterCache(lora_node, ("transformer",), adapter_bytes)
        self._controls = ControlNetSources(spec, controlnets, control_nodes or {}, rates, controlnet_bytes)
        templates = TemplateStore(template_bytes, time.monotonic, template_coding, tenant_pinned_bytes)
        self._engine = StepEngine(backbone, tables, batcher, time.monotonic, self._controls.sources, templates)
        self._every = checkpoint_every_steps
        self._thread: EngineThread | None = None
        self._streams: set[asyncio.Queue[Message]] = set()
        self._lanes = 0
        self._calls: dict[str, list[str]] = {}  # the lanes of each call, by its key
        self._is_draining = False

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Denoise ``n`` images with seeds seed, seed + 1, ...; closing the stream drops its lanes."""
        if self._is_draining:
            yield ReplicaDraining()
            return
        if self._thread is None:
            self._thread = EngineThread(self._engine)
        queue: asyncio.Queue[Message] = asyncio.Queue()
        self._streams.add(queue)
        work = asyncio.ensure_future(self._denoise(call, queue))
        try:
            while True:
                message = await queue.get()
                yield message
                if isinstance(message, NodeResult | ReplicaDraining):
                    return
        finally:
            self._streams.discard(queue)
            work.cancel()

    async def drain(self) -> int:
        """Send every stream its lanes' fresh checkpoints and end it; take no more calls.  Answers how many moved."""
        self._is_draining = True
        if self._thread is not None:
            await self._thread.drain()
        streams = list(self._streams)
        for queue in streams:
            queue.put_nowait(ReplicaDraining())
        return len(streams)

    def templates(self) -> tuple[str, ...]:
        """The templates of which activations are here, and under which adapters, as ``entries_label`` has it."""
        return tuple(sorted(self._engine.templates.templates))

    def template_use(self) -> dict[str, int]:
        """How much of templates is kept here, as ``core.reuse.TemplateUse`` has it."""
        store = self._engine.templates
        return asdict(TemplateUse(store.entries, store.used_bytes, store.budget_bytes))

    async def template(self, verb: str, name: str) -> int:
        """What `template_info` says of a template here."""
        return template_info(self._engine, self._thread, verb, name)

    def pause(self, call: str, paused: bool) -> int:
        """Let a call's lanes wait from the next step on, or go on; answers how many of them are here."""
        lanes = self._calls.get(call, [])
        for lane in lanes:
            assert self._thread is not None
            (self._thread.pause if paused else self._thread.resume)(lane)
        return len(lanes)

    def resident(self) -> tuple[str, ...]:
        """The adapters that are here, by their hashes."""
        return () if self._shelf is None else self._shelf.kept

    async def check_health(self) -> None:
        """Raise when the compute thread has died, or when the replica has been drained and may be replaced."""
        if self._thread is not None and not self._thread.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        if self._is_draining and not self._streams:
            raise NodeError("This replica has been drained.")

    async def _denoise(self, call: NodeCall, queue: asyncio.Queue[Message]) -> None:
        """Run the lanes of a call; the last message is its answer."""
        try:
            answer = await self._answer(call, queue)
        except LegoError as error:
            answer = NodeResult(error=error)
        except Exception as error:
            log.exception("a denoising call failed")
            answer = NodeResult(error=NodeError(f"A model node failed: {type(error).__name__}."))
        queue.put_nowait(answer)

    async def _answer(self, call: NodeCall, queue: asyncio.Queue[Message]) -> NodeResult:
        assert self._thread is not None
        adapters = _adapters(call)
        if adapters and self._shelf is None:
            raise NodeError("This model is served without adapters.", code="no_adapters")
        controls = _controls(call)
        await self._controls.connect(controls, self._thread)
        held = await self._controls.take(controls)
        taken: list[AdapterLease] = []
        tasks: list[asyncio.Future[Any]] = []
        try:
            wait_for_adapters_at = None
            if self._shelf is not None and adapters:
                if self._shelf.has(adapters):
                    taken = await self._shelf.take(adapters)
                else:  # lanes take their place in the order now, and wait there
                    wait_for_adapters_at = steps_without_adapter(adapters, _steps(call))
            requests = lane_requests(call, self._lanes + 1, _uses(taken), wait_for_adapters_at)
            self._lanes += len(requests)
            self._calls[call.key] = [request.key for request in requests]
            for index, request in enumerate(requests):
                watch = LaneListener(queue.put_nowait, call.stream, self._every, index)
                tasks.append(asyncio.ensure_future(self._thread.submit(request, watch)))
            if wait_for_adapters_at is not None:  # after the lanes, for what adapts them must find them
                keys = [request.key for request in requests]
                tasks.append(asyncio.ensure_future(self._adapt(keys, adapters, taken)))
            results = [result for result in await asyncio.gather(*tasks) if isinstance(result, LaneResult)]
        finally:
            self._calls.pop(call.key, None)
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                self._controls.release(held)
                if self._shelf is not None:
                    self._shelf.release(taken)
        longest = max(results, key=lambda result: result.queue_s + result.run_s)
        stats = _stats(results, longest, taken, self._controls.stats(longest.controls, held))
        return NodeResult({"latents": torch.stack([r.latents for r in results]).numpy()}, stats)

    async def _adapt(self, keys: Sequence[str], adapters: Sequence[LoadedAdapter], taken: list[AdapterLease]) -> None:
        """Give lanes their adapters once they have come; ``taken`` is filled with what must be given back."""
        assert self._thread is not None
        assert self._shelf is not None
        taken += await self._shelf.take(adapters)
        for key in keys:
            self._thread.adapt(key, _uses(taken))


def _adapters(call: NodeCall) -> tuple[LoadedAdapter, ...]:
    given: Any = call.inputs.get("adapters")
    return () if given is None else given["adapters"]


def _controls(call: NodeCall) -> tuple[ControlNetInput, ...]:
    given: Any = call.inputs.get("controls")
    return () if given is None else given["controls"]


def _steps(call: NodeCall) -> int:
    """Steps that a lane will run: fewer than the request's where it starts from an image."""
    given: Any = call.inputs
    steps = int(given["steps"])
    is_whole = given.get("init") is None and given.get("edit") is None
    return steps if is_whole else max(1, int(steps * float(given.get("strength", 1.0))))


def _uses(taken: Sequence[AdapterLease]) -> tuple[AdapterUse, ...]:
    return tuple(
        AdapterUse(one.adapter, one.loaded.ask.scale, one.loaded.ask.start, one.loaded.ask.end) for one in taken
    )


def _stats(
    results: Sequence[LaneResult],
    longest: LaneResult,
    taken: Sequence[AdapterLease],
    controlnets: tuple[ControlNetStats, ...],
) -> TaskStats:
    early = max(result.steps_without_adapter for result in results)
    active = dict(longest.adapter_steps)
    adapters = tuple(
        AdapterStats(
            # One that was late where the lane began, and at hand where it went on, was late.
            one.loaded.ask.name, one.loaded.ask.scale, one.hit and early == 0, one.load_s, one.loaded.size_bytes,
            early, active.get(one.loaded.sha256, 0),
        )
        for one in taken
    )  # fmt: skip
    return TaskStats(
        longest.queue_s,
        longest.run_s,
        step_s=longest.step_s,
        step_lanes=longest.step_lanes,
        batch_size=max(longest.step_lanes, default=1),
        adapters=adapters,
        controlnets=controlnets,
        reuse=_reuse(results, longest),
    )


def _reuse(results: Sequence[LaneResult], longest: LaneResult) -> ReuseStats | None:
    """What the lanes of an edit read: each the same, but for the passes over the template that they share."""
    all_of_them = [result.reuse for result in results if result.reuse is not None]
    if longest.reuse is None:
        return None
    primed, evicted = sum(one.primed for one in all_of_them), sum(one.evicted for one in all_of_them)
    return replace(longest.reuse, primed=primed, evicted=evicted)
