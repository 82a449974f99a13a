"""The class that Ray Serve runs as a shared worker: any node of its options, loaded when a call comes for it."""

import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ray import serve

from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.nodes.requests import (
    CallsInHand,
    CountTemplateBytes,
    DrainReplica,
    ForgetTemplate,
    Identify,
    MemoryUse,
    ReplicaCommand,
    ReplicaLoad,
    ReportCalls,
    ReportLoad,
    RunningStep,
)
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.cluster.handles import clusters_witness
from lego_serve.serving.cluster.ray_internals import keep_to_this_machine
from lego_serve.serving.cluster.references import RefsLost, keep_arrays
from lego_serve.serving.cluster.replica import (
    STARTING,
    HeldCalls,
    answer_alone,
    log_about,
    make_node,
    readable,
    run_command,
    runs_alone,
)
from lego_serve.serving.nodes.options import BackboneOptions, HostedNode, WorkerOptions
from lego_serve.serving.workers.host import HostedModel, ModelHost

if TYPE_CHECKING:
    from lego_serve.serving.nodes.host_weights import HostWeights
    from lego_serve.serving.nodes.peers import NodePeers

ReplyT = TypeVar("ReplyT")


class WorkerReplica:
    """Hosts nodes of several models; one of them computes at a time."""

    def __init__(self, options: WorkerOptions) -> None:
        from lego_serve.engine.sharing.compute_turns import ComputeTurns
        from lego_serve.process import json_logging
        from lego_serve.serving.nodes.peers import NodePeers

        json_logging.install()
        keep_to_this_machine()
        process = NodePeers(turns=ComputeTurns())
        models = {node.name: _hosted(node, process) for node in options.nodes}
        self._host: ModelHost[Any] = ModelHost(models, options.max_bytes, host_bytes=options.host_bytes)
        self._id = serve.get_replica_context().replica_id.unique_id
        self._is_draining = False
        self._streams = 0
        self._calls = HeldCalls()
        if options.preload:
            self._host.preload(tuple(models))

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Answer one request to the node that it names."""
        log_about(call)
        async with self._calls.side_by_side(call.key):
            try:
                call = await readable(call)
            except RefsLost as lost:
                return NodeResult(lost_refs=lost.ids)
            try:
                async with self._host.lease(call.node, call.job_id, call.next_nodes) as lease:
                    result: NodeResult[Any] = await lease.node.run(call)
            except LegoError as error:
                return NodeResult(error=error, replica=self._id)
            result = self._with_loads(result, lease.load_s)
            return await keep_arrays(result) if call.keeps_arrays else result

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Answer one request with progress, and with the result as the last message."""
        log_about(call)
        if runs_alone(call):
            async with aclosing(self._stream_alone(call)) as messages:  # type: ignore[type-var]
                async for message in messages:
                    yield message
            return
        with self._calls.holding(call.key):
            yield CallAccepted(self._id)
            if self._is_draining:
                yield ReplicaDraining()
                return
            try:
                call = await readable(call)
            except RefsLost as lost:
                unread: NodeResult[Any] = NodeResult(lost_refs=lost.ids)
                yield unread
                return
            self._streams += 1
            try:
                async with (
                    self._host.lease(call.node, call.job_id, call.next_nodes) as lease,
                    aclosing(lease.node.stream(call)) as messages,  # which ends before the lease does
                ):
                    async for message in messages:
                        if isinstance(message, NodeResult):
                            message = self._with_loads(message, lease.load_s)
                            message = await keep_arrays(message) if call.keeps_arrays else message
                        yield message
            except LegoError as error:
                failed: NodeResult[Any] = NodeResult(error=error, replica=self._id)
                yield failed
            finally:
                self._streams -= 1

    async def _stream_alone(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Answer a suspect's request, beside lanes alone, of which none steps while it computes.

        What dies of loading the node is not the request's doing: it says that it runs after that.
        """
        async with self._calls.alone(call.key):
            yield CallAccepted(self._id)
            try:
                async with self._host.lease(call.node, call.job_id, call.next_nodes) as lease:
                    yield STARTING
                    result = await answer_alone(call, lease.node, clusters_witness())
            except LegoError as error:
                failed: NodeResult[Any] = NodeResult(error=error, replica=self._id)
                yield failed
            else:
                yield self._with_loads(result, lease.load_s)

    def _with_loads(self, result: NodeResult[Any], load_s: float) -> NodeResult[Any]:
        """Return a result with what its call waited for, and what was loaded and evicted here lately."""
        stats = replace(result.stats, load_s=load_s, moves=self._host.take_moves())
        return replace(result, stats=stats, replica=self._id)

    async def control(self, command: ReplicaCommand[ReplyT], node: str) -> tuple[str, ReplyT | None]:
        """Run a broadcast command for a node; return this worker's id and reply, None if it is for another."""
        # A worker has a load for each of its nodes, and a load an id of its own.
        name = f"{self._id}.{node}" if isinstance(command, ReportLoad) else self._id
        return name, await self._run_command(command, node)

    async def _run_command(self, command: ReplicaCommand[Any], name: str) -> Any:
        match command:
            case Identify():
                return None
            case DrainReplica(replica=replica):
                return await self._drain() if replica == self._id else None
            case ReportLoad():
                return self._load(name)
            case ReportCalls():
                return CallsInHand(self._calls.keys, self._running_step())
        node = self._host.nodes.get(name)
        if node is None:  # without a model there is nothing of it here
            return 0 if isinstance(command, CountTemplateBytes | ForgetTemplate) else None
        return await run_command(node, command, self._id)

    def _running_step(self) -> RunningStep | None:
        """Return the step under way, whichever node's: one computes at a time, and the others wait for it."""
        steps = [node.running_step for node in self._host.nodes.values() if hasattr(node, "drain")]
        return next((step for step in steps if step is not None), None)

    def _load(self, name: str) -> ReplicaLoad:
        """Return what a node has in hand here; nothing where it is not resident."""
        node = self._host.nodes.get(name)
        load: ReplicaLoad = ReplicaLoad() if node is None else node.load()
        host, copies = self._host, self._host.copies
        models = MemoryUse("models", host.bytes_of(name), host.max_bytes, host.evictions_of(name))
        in_host = MemoryUse("host", copies.bytes_of(name), copies.budget_bytes, copies.dropped_of(name))
        others = (use for use in load.memory if use.kind != "weights")  # the account has these bytes
        memory = (models, *([in_host] if copies.budget_bytes else []), *others)
        return replace(load, memory=memory, is_draining=self._is_draining, machine=socket.gethostname())

    async def _drain(self) -> int:
        """Drain all nodes; the order comes once for each backbone that is hosted, and only the first one's counts."""
        if self._is_draining:
            return 0
        self._is_draining = True
        moved = [await node.drain() for node in self._host.nodes.values() if hasattr(node, "drain")]
        return sum(moved)

    def record_routing_stats(self) -> dict[str, Any]:
        """Return the resident nodes, their bytes, and the templates of backbones, for Serve's routers."""
        host, copies = self._host, self._host.copies
        memory = {"models": (host.used_bytes, host.max_bytes)}
        if copies.budget_bytes:
            memory["host"] = (copies.used_bytes, copies.budget_bytes)
        kept = [node.routing_stats()["templates"] for node in self._host.nodes.values() if hasattr(node, "drain")]
        return {
            "resident": tuple(sorted(self._host.nodes)),
            "memory": memory,
            "templates": tuple(sorted({template for each in kept for template in each})),
        }

    async def check_health(self) -> None:
        """Raise when a node of it cannot work, or when it has been drained."""
        for node in list(self._host.nodes.values()):
            await node.check_health()
        if self._is_draining and not self._streams:
            raise NodeError("This worker has been drained.")


def _hosted(node: HostedNode, process: "NodePeers") -> HostedModel[Any]:
    """Return how a node is loaded."""
    return HostedModel(partial(_size_bytes, node), partial(_make, node, process), partial(_files, node))


def _make(node: HostedNode, process: "NodePeers", copy: "HostWeights[Any] | None") -> Any:
    """Return a node, with its weights from host memory where they are given."""
    return make_node(node.spec, node.options, replace(process, host_weights=copy))


def _size_bytes(node: HostedNode) -> int:
    """Return the bytes of a node's weights, with those of the ControlNets that it may load to stay.

    Raises CheckpointError.
    """
    from lego_serve.models.weights_size import controlnet_bytes, weights_bytes

    return weights_bytes(node.spec, node.component) + sum(map(controlnet_bytes, _nets(node)))


def _files(node: HostedNode) -> object:
    """Return the state of all files of the models that a node is made of, None while a write to them might not show.

    Raises CheckpointError.
    """
    from lego_serve.models.model_files import model_folder, own_folder
    from lego_serve.models.weights_digest import file_versions

    here = [replace(spec, fetch=False) for spec in (node.spec, *_nets(node))]  # by now they are
    folders = {folder for spec in here for folder in (own_folder(spec), model_folder(spec))}
    return file_versions(sorted(folders), time.time())


def _nets(node: HostedNode) -> Sequence[ModelSpec]:
    """Return the ControlNets that may stay beside a node."""
    return node.options.resident_controlnets if isinstance(node.options, BackboneOptions) else ()
