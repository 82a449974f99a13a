"""The backbone's node: calls become lanes of the engine, with their adapters and ControlNets."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from lego_serve.core.addons import LoadedAdapter, steps_without_adapter
from lego_serve.core.editing.reuse import TemplateUse
from lego_serve.core.jobs.messages import Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.nodes.computed import ComputedAs
from lego_serve.core.nodes.messages import DenoiseInput, DenoiseOutput
from lego_serve.core.nodes.requests import (
    CountTemplateBytes,
    ForgetTemplate,
    HelperAddress,
    MeasureTemplate,
    MemoryUse,
    PauseCall,
    ReplicaLoad,
    RunningStep,
    TemplateSize,
)
from lego_serve.core.scheduling.liveness import is_wedged
from lego_serve.engine.lane_listener import LaneListener
from lego_serve.engine.lane_state import LaneResult
from lego_serve.engine.sharing.compute_turns import ComputeTurns
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import TemplateStore
from lego_serve.engine.thread import EngineThread
from lego_serve.errors import CheckpointError, LegoError, NodeError
from lego_serve.models.dtypes import arithmetic, resolve_dtype
from lego_serve.models.loading import computed_revision
from lego_serve.models.lora.targets import lora_targets_of
from lego_serve.models.model_files import denoiser_revision
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache, AdapterLease
from lego_serve.serving.caches.loading_cache import memory_of
from lego_serve.serving.nodes.backbone_model import BackboneModel
from lego_serve.serving.nodes.branch_helpers import BranchHelpers
from lego_serve.serving.nodes.controlnets.sources import ControlNetSources
from lego_serve.serving.nodes.host_weights import HostWeights
from lego_serve.serving.nodes.lane_requests import adapter_uses, lane_requests, steps_of, task_stats, tier_on
from lego_serve.serving.nodes.options import BackboneOptions
from lego_serve.serving.nodes.peers import NodePeers
from lego_serve.serving.nodes.tensors import drop_weights, weights_bytes

log = logging.getLogger("lego_serve.nodes")


class BackboneNode:
    """Denoises lanes in a continuous batch."""

    def __init__(self, spec: ModelSpec, options: BackboneOptions, peers: NodePeers | None = None) -> None:
        torch.set_num_threads(1)
        peers = peers or NodePeers()
        lora_node = peers.lora_node if options.adapters is not None else None
        if lora_node is not None:
            lora_targets_of(spec)
        model = peers.model(partial(BackboneModel.load, spec))
        backbone, tables = model.backbone, model.tables
        batcher = model.batcher(spec, options, peers.measurements, takes_adapters=lora_node is not None)
        self._adapters = None
        if lora_node is not None and options.adapters is not None:
            self._adapters = AdapterCache(lora_node, ("transformer",), options.adapters.cache_bytes)
        kept, nets = options.templates, (options.controlnets, peers.controlnets, batcher.rates)
        self._controlnets = ControlNetSources(spec, *nets, options.controlnet_bytes, model.controlnets)
        templates = TemplateStore(kept.max_bytes, time.monotonic, kept.coding, kept.tenant_pinned_bytes)
        revision = denoiser_revision(spec)
        self._turns, self._witness = peers.turns or ComputeTurns(), peers.witness
        computed = computed_revision(spec, revision)
        computes = ComputedAs(computed, str(resolve_dtype(spec)), spec.linear, arithmetic(spec.device))
        self._helpers = None
        if peers.replicas is not None and backbone.uses_cfg:
            self._helpers = BranchHelpers(backbone, peers.replicas, self._turns, peers.host, computes)
        splitter = None if self._helpers is None else self._helpers.splitter
        sources = self._controlnets.sources
        self._engine = StepEngine(backbone, tables, batcher, time.monotonic, sources, templates, computed, splitter)
        try:
            options.tiers.check(revision)
        except ValueError as error:
            raise CheckpointError(f"model {spec.name}: {error}") from None
        self._tiers, self._checkpoint_tier = options.tiers, options.checkpoint_tier
        self._backbone, self._weights_bytes = backbone, weights_bytes(backbone)
        self._checkpoint_every_steps = options.checkpoint_every_steps
        self._thread: EngineThread | None = None
        self._streams: set[asyncio.Queue[Message]] = set()
        self._tables, self._lanes, self._is_draining = tables, 0, False
        self._calls: dict[str, list[str]] = {}  # the lanes of each call, by its key

    async def stream(self, call: NodeCall[DenoiseOutput]) -> AsyncIterator[Message]:
        """Denoise ``n`` images with seeds seed, seed + 1, ...; closing the stream drops its lanes."""
        if self._is_draining:
            yield ReplicaDraining()
            return
        if self._thread is None:
            self._thread = EngineThread(self._engine, self._turns)
        if self._helpers is not None and not self._streams:
            self._helpers.ask()
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
            work.cancel()
            await asyncio.wait([work])  # what it has of others is given back before the node may be closed
            self._streams.discard(queue)

    async def drain(self) -> int:
        """Send every stream its lanes' fresh checkpoints and end it; refuse new calls.  Returns how many ended."""
        self._is_draining = True
        if self._thread is not None:
            await self._thread.drain()
        streams = list(self._streams)
        for queue in streams:
            queue.put_nowait(ReplicaDraining())
        return len(streams)

    def routing_stats(self) -> dict[str, Any]:
        """Return the cached templates by ``entries_label``, and a ``TemplateUse`` as a dictionary."""
        store = self._engine.templates
        use = TemplateUse(store.entries, store.used_bytes, store.budget_bytes)
        return {"templates": tuple(sorted(store.templates)), "template_use": asdict(use)}

    def template_size(self, command: MeasureTemplate) -> TemplateSize:
        """Return the size of a template's activations here, and where the steps of a grid lie among those asked for."""
        size = self._engine.entry_size(command.width, command.height)
        found = TemplateSize(size.rows, size.plain_bytes, size.text_bytes)
        if command.grid is None:
            return found
        asked = self._tables.schedule(command.sampler, command.steps, size.rows)
        return replace(found, begins=asked.on_grid(command.grid).begins)

    def bytes_by_template(self) -> dict[str, int]:
        """Return the bytes kept of each image."""
        return self._engine.templates.bytes_by_image()

    def template_bytes(self, command: CountTemplateBytes) -> int:
        """Return the bytes kept of an image."""
        return self._engine.templates.bytes_of(command.image)

    async def forget_template(self, command: ForgetTemplate) -> int:
        """Drop an image's activations and its pin; return their bytes."""
        kept_bytes = self._engine.templates.bytes_of(command.image)
        if self._thread is None:  # nothing computes here yet
            self._engine.templates.forget(command.image, command.pin)
        else:
            self._thread.forget(command.image, command.pin)
        return kept_bytes

    def pause(self, command: PauseCall) -> int:
        """Pause or resume a call's lanes at the next step; return their number."""
        lanes = self._calls.get(command.key, [])
        for lane in lanes:
            assert self._thread is not None
            if command.is_paused:
                self._thread.pause(lane)
            else:
                self._thread.resume(lane)
        return len(lanes)

    def offer_help(self) -> HelperAddress | None:
        """Return where this replica computes branches of others' lanes; None where it does not."""
        return None if self._helpers is None else self._helpers.address()

    def resident(self) -> tuple[str, ...]:
        """Return the hashes of the cached adapters."""
        return () if self._adapters is None else self._adapters.kept

    def load(self) -> ReplicaLoad:
        """Return the lanes of the step that runs, those that wait, and what is kept for them."""
        lanes, gauges, store = self._engine.lanes, self._engine.gauges, self._engine.templates
        recent = tuple(gauges.recent_lanes)
        running = min(lanes, recent[-1]) if recent else 0
        memory = [
            MemoryUse("weights", self._weights_bytes),
            MemoryUse("templates", store.used_bytes, store.budget_bytes, store.evicted),
        ]
        if self._adapters is not None:
            memory.append(memory_of("adapters", self._adapters.ledger))
        load = ReplicaLoad(running, lanes - running, gauges.last_step_s, recent, tuple(memory), room=gauges.room)
        return replace(load, is_draining=self._is_draining)

    @property
    def running_step(self) -> RunningStep | None:
        """The step under way."""
        return self._engine.running_step

    async def check_health(self) -> None:
        """Raise when the compute thread has died or is stuck, or when the replica was drained and may be replaced."""
        if is_wedged(self.running_step):
            raise NodeError("The step of this replica does not end.")
        if self._thread is not None and not self._thread.is_alive:
            raise NodeError("The compute thread of this replica has stopped.")
        if self._is_draining and not self._streams:
            raise NodeError("This replica has been drained.")

    def close(self) -> None:
        """Let go of its thread and helpers; nothing is in hand.  It waits for the step under way, on any thread."""
        self.stop()
        drop_weights(self._model)

    def stop(self) -> int:
        """Let go of threads and adapters likewise; return its weights' bytes on another device than the CPU."""
        if self._thread is not None:
            self._thread.close()
        if self._helpers is not None:
            self._helpers.close()
        return self._model.forget_adapters()

    def to_host(self) -> HostWeights[BackboneModel]:
        """Move the weights of a node that has stopped to host memory."""
        return HostWeights(self._model)

    @property
    def _model(self) -> BackboneModel:
        return BackboneModel(self._backbone, self._tables, self._controlnets.kept)

    async def _denoise(self, call: NodeCall[DenoiseOutput], queue: asyncio.Queue[Message]) -> None:
        """Run the lanes of a call; the last message is its result."""
        try:
            result = await self._result(call, queue)
        except LegoError as error:
            result = NodeResult(error=error)
        except Exception as error:
            log.exception("a denoising call failed")
            result = NodeResult(error=NodeError(f"A model node failed: {type(error).__name__}."))
        queue.put_nowait(result)

    async def _result(self, call: NodeCall[DenoiseOutput], queue: asyncio.Queue[Message]) -> NodeResult[DenoiseOutput]:
        assert self._thread is not None
        request = call.request
        assert isinstance(request, DenoiseInput)
        adapters = request.loaded_adapters
        if adapters and self._adapters is None:
            raise NodeError("This model is served without adapters.", code="no_adapters")
        await self._controlnets.connect(request.controlnets, self._thread)
        nets = await self._controlnets.take(request.controlnets)
        leases: list[AdapterLease] = []
        try:
            results = await self._lanes_of(call, request, leases, queue)
        finally:
            self._controlnets.release(nets)
            if self._adapters is not None:
                self._adapters.release(leases)
        longest = max(results, key=lambda result: result.queue_s + result.run_s)
        stats = task_stats(results, longest, leases, self._controlnets.stats(longest.controls, nets))
        return NodeResult(DenoiseOutput(torch.stack([result.latents for result in results]).numpy()), stats)

    async def _lanes_of(
        self,
        call: NodeCall[DenoiseOutput],
        request: DenoiseInput,
        leases: list[AdapterLease],
        queue: asyncio.Queue[Message],
    ) -> list[LaneResult]:
        """Run a call's lanes to their end; adds the adapters to release afterwards to ``leases``."""
        assert self._thread is not None
        adapters, wait_for_adapters_at = request.loaded_adapters, None
        tier = tier_on(self._tiers, self._checkpoint_tier, request)
        if self._adapters is not None and adapters:
            if self._adapters.has(adapters):
                leases += await self._adapters.take(adapters)
            else:  # lanes take their place in the order now, and wait there
                wait_for_adapters_at = steps_without_adapter(adapters, steps_of(request))
        requests = lane_requests(call, request, self._lanes + 1, adapter_uses(leases), wait_for_adapters_at, tier)
        self._lanes += len(requests)
        keys = self._calls[call.key] = [lane.key for lane in requests]
        tasks: list[asyncio.Future[Any]] = []
        tell, every = queue.put_nowait, self._checkpoint_every_steps
        try:
            for index, lane in enumerate(requests):
                listener = LaneListener(tell, call.stream, every, index, call.key, self._witness)
                tasks.append(asyncio.ensure_future(self._thread.submit(lane, listener)))
            if wait_for_adapters_at is not None:  # after the lanes, for what adapts them must find them
                tasks.append(asyncio.ensure_future(self._adapt(keys, adapters, leases)))
            return [result for result in await asyncio.gather(*tasks) if isinstance(result, LaneResult)]
        finally:
            self._calls.pop(call.key, None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _adapt(self, keys: Sequence[str], adapters: Sequence[LoadedAdapter], leases: list[AdapterLease]) -> None:
        """Give lanes their adapters once loaded; adds them to ``leases``."""
        assert self._thread is not None
        assert self._adapters is not None
        leases += await self._adapters.take(adapters)
        for key in keys:
            self._thread.adapt(key, adapter_uses(leases))
