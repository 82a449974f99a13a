"""The class that Ray Serve runs: one node of a model in a replica's process."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
from ray import serve

from lego_serve.core.jobs.messages import CallAccepted, LaneProgress, Message, NodeCall, NodeResult
from lego_serve.core.jobs.progress import PREPARING, SUSPECT_PAUSE_S
from lego_serve.core.jobs.suspects import Witness
from lego_serve.core.nodes.messages import DenoiseInput
from lego_serve.core.nodes.requests import (
    CallsInHand,
    CountTemplateBytes,
    Done,
    DrainReplica,
    ForgetTemplate,
    Identify,
    ListResidentAdapters,
    ListTemplateBytes,
    MeasureTemplate,
    OfferHelp,
    PauseCall,
    ReplicaCommand,
    ReportCalls,
    ReportLoad,
)
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.cluster.handles import LazyNode, clusters_witness
from lego_serve.serving.cluster.ray_internals import keep_to_this_machine
from lego_serve.serving.cluster.references import RefsLost, keep_arrays, read_arrays
from lego_serve.serving.nodes.options import (
    AdapterOptions,
    BackboneOptions,
    ControlNetOptions,
    LoraOptions,
    NodeOptions,
    TextEncoderOptions,
    VaeOptions,
    WorkerOptions,
)

if TYPE_CHECKING:
    from lego_serve.serving.nodes.peers import NodePeers

ReplyT = TypeVar("ReplyT")


class HeldCalls:
    """The calls that a replica has taken and not answered."""

    def __init__(self) -> None:
        self._holders: Counter[str] = Counter()  # a call made again may come before it has ended where it was given up
        self._side_by_side = 0
        self._suspects: list[object] = []  # that run alone: the first one now, or as soon as no other call runs
        self._changed = asyncio.Event()

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the calls."""
        return frozenset(self._holders)

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Have a call in hand."""
        self._holders[key] += 1
        try:
            yield
        finally:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]

    @contextlib.asynccontextmanager
    async def side_by_side(self, key: str) -> AsyncIterator[None]:
        """Have a call in hand that runs beside others, but for suspects, whom it lets go first."""
        with self.holding(key):
            while self._suspects:
                await self._changed.wait()
            self._side_by_side += 1
            try:
                yield
            finally:
                self._side_by_side -= 1
                self._wake()

    @contextlib.asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Have a suspect in hand, which runs when none of the calls side by side does, nor another suspect."""
        mine = object()
        with self.holding(key):
            self._suspects.append(mine)
            try:
                while self._side_by_side or self._suspects[0] is not mine:
                    await self._changed.wait()
                yield
            finally:
                self._suspects.remove(mine)
                self._wake()

    def _wake(self) -> None:
        """Have all who wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()


class NodeReplica:
    """Runs one node, whose libraries are imported in the replica's process alone."""

    def __init__(self, spec: ModelSpec, options: NodeOptions) -> None:
        from lego_serve.process import json_logging

        json_logging.install()
        keep_to_this_machine()
        self._options = options
        self._node = make_node(spec, options)
        self._calls = HeldCalls()
        self._id = serve.get_replica_context().replica_id.unique_id

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Answer one request."""
        log_about(call)
        async with self._calls.side_by_side(call.key):
            try:
                call = await readable(call)
            except RefsLost as lost:
                return NodeResult(lost_refs=lost.ids)
            result: NodeResult[Any] = await self._node.run(call)
            return await keep_arrays(result) if call.keeps_arrays else result

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Answer one request with progress, and with the result as the last message."""
        log_about(call)
        if runs_alone(call):
            async with self._calls.alone(call.key):
                for message in (CallAccepted(self._id), STARTING):
                    yield message
                yield await answer_alone(call, self._node, clusters_witness())
            return
        with self._calls.holding(call.key):
            yield CallAccepted(self._id)
            try:
                call = await readable(call)
            except RefsLost as lost:
                unread: NodeResult[Any] = NodeResult(lost_refs=lost.ids)
                yield unread
                return
            async for message in self._node.stream(call):
                yield await keep_arrays(message) if call.keeps_arrays and isinstance(message, NodeResult) else message

    async def control(self, command: ReplicaCommand[ReplyT]) -> tuple[str, ReplyT | None]:
        """Run a broadcast command; return this replica's id and reply, None if the command is for another."""
        if isinstance(command, Identify):
            return self._id, cast(ReplyT, Done())
        if isinstance(command, ReportCalls):
            step = self._node.running_step if isinstance(self._options, BackboneOptions) else None
            return self._id, cast(ReplyT, CallsInHand(self._calls.keys, step))
        return self._id, await run_command(self._node, command, self._id)

    def record_routing_stats(self) -> dict[str, Any]:
        """Return what Serve's routers hear: what is kept here, and a backbone's templates."""
        stats: dict[str, Any] = self._node.routing_stats() if isinstance(self._options, BackboneOptions) else {}
        return stats | {"memory": {each.kind: (each.used, each.budget) for each in self._node.load().memory}}

    async def check_health(self) -> None:
        """Raise when the node cannot work."""
        await self._node.check_health()


STARTING = LaneProgress(0, PREPARING, 1, is_starting=True)  # of a call without lanes: if the replica dies, it was this


def runs_alone(call: NodeCall[Any]) -> bool:
    """Whether a call is a suspect that has no lanes, which would be alone in their steps only."""
    return call.suspect_steps > 0 and not isinstance(call.request, DenoiseInput)


async def answer_alone(call: NodeCall[Any], node: Any, witness: Witness) -> NodeResult[Any]:
    """Answer a suspect's request, once it is known that it runs; reading it may take the replica down too."""
    if not await asyncio.to_thread(witness.note, call.key, STARTING):
        await asyncio.sleep(SUSPECT_PAUSE_S)
    try:
        result: NodeResult[Any] = await node.run(await readable(call))
    except RefsLost as lost:
        return NodeResult(lost_refs=lost.ids)
    finally:
        await asyncio.to_thread(witness.clear, call.key)
    return await keep_arrays(result) if call.keeps_arrays else result


async def run_command(node: Any, command: ReplicaCommand[Any], replica: str) -> Any:
    """Have a node of a replica run a broadcast command; return its reply, None if the command is for another."""
    match command:
        case ReportLoad():
            return replace(node.load(), machine=socket.gethostname())
        case DrainReplica(replica=wanted):
            return await node.drain() if wanted == replica else None
        case PauseCall():
            return node.pause(command)
        case MeasureTemplate():
            return node.template_size(command)
        case CountTemplateBytes():
            return node.template_bytes(command)
        case ListTemplateBytes():
            return node.bytes_by_template()
        case ForgetTemplate():
            return await node.forget_template(command)
        case ListResidentAdapters():
            return node.resident()
        case OfferHelp():
            return node.offer_help()
    raise TypeError(f"no replica knows {type(command).__name__}")


def log_about(call: NodeCall[Any]) -> None:
    """Have the lines of this request's task name its job."""
    from lego_serve.process.log_facts import LogFacts, log_with

    log_with(LogFacts(job_id=call.job_id, tenant=call.tenant))


async def readable(call: NodeCall[Any]) -> NodeCall[Any]:
    return await read_arrays(call) if call.reads_refs else call


def _host() -> str:
    """Return the address at which replicas on other Ray nodes reach this one."""
    return str(ray.util.get_node_ip_address())


def _lora_node(adapters: AdapterOptions | None) -> LazyNode | None:
    return None if adapters is None else LazyNode(adapters.lora_app)


def make_node(spec: ModelSpec, options: NodeOptions, process: "NodePeers | None" = None) -> Any:
    """Make the node that options are for, with handles of the deployments that they name.

    ``process``: what it shares with other nodes of its process.
    """
    from lego_serve.serving.nodes.peers import NodePeers

    process = process or NodePeers()
    match options:
        case TextEncoderOptions():
            from lego_serve.serving.nodes.text_encoder import TextEncoderNode

            return TextEncoderNode(spec, options, replace(process, lora_node=_lora_node(options.adapters)))
        case VaeOptions():
            from lego_serve.serving.nodes.vae import VaeNode

            return VaeNode(spec, options, process)
        case LoraOptions():
            from lego_serve.serving.nodes.lora import LoraNode

            return LoraNode(spec, options)
        case ControlNetOptions():
            from lego_serve.serving.nodes.controlnets.node import ControlNetNode

            return ControlNetNode(spec, options)
        case BackboneOptions():
            from lego_serve.serving.nodes.backbone import BackboneNode

            controlnets = {plan.spec.name: LazyNode(plan.app) for plan in options.controlnets}
            group = None if options.helpers is None else LazyNode(options.helpers.app, options.helpers.hosted)
            lora_node = _lora_node(options.adapters)
            own = replace(process, lora_node=lora_node, controlnets=controlnets, replicas=group)
            own = replace(own, host=_host, witness=clusters_witness())
            return BackboneNode(spec, options, own)
        case WorkerOptions():
            raise TypeError("a worker is no node: it makes nodes")
