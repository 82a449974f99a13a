"""Everything private of Ray that we depend on, in one place; a test says clearly when Ray changes it.

A request router of one's own has to be a subclass of Serve's, which is not public in Ray 2.60, and Serve's own
book-keeping loses calls that share a request's id, so that one method of it is overridden.  Ray prints errors of the
cluster on every driver's standard output, coloured, whatever its options say; here they are logged.
"""

import asyncio
import contextlib
import logging
import os
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ray._private import parameter, ray_constants, services, worker
from ray.core.generated import autoscaler_pb2, common_pb2
from ray.exceptions import RayError
from ray.experimental import internal_kv
from ray.serve._private.common import RequestMetadata
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter

from lego_serve.core.placement.room import Ask, ClusterRoom, LabelRule
from lego_serve.process.tree import children, command_of, is_alive

__all__ = [
    "NO_RAY",
    "KeyValueStore",
    "PendingRequest",
    "RequestMetadata",
    "RequestRouter",
    "RunningReplica",
    "answers_as_they_come",
    "cluster_room",
    "keep_to_this_machine",
    "log_like_this_process",
    "name_ports_of_agents",
    "wait_for_a_slow_raylet",
]
# What `ray.init` raises where nobody answers, and the key-value store.
NO_RAY = (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError, RayError)
LOCAL_RAY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0 where Ray listens on loopback alone; this server sets it
RAYLET_PATIENCE_S, RAYLET_PAUSE_S = 180.0, 0.2
AGENT_PATIENCE = "RAY_agent_register_timeout_ms"  # that a raylet has with the agent of environments; Ray's own is 30 s
# Above the ports of Ray's workers, below those that Linux gives to whoever connects, which may be taken meanwhile.
PORTS_TO_NAME = range(20_000, 32_000)
PER_NODE = "node:__internal_implicit_resource_"  # begins the resources that Serve adds for `max_replicas_per_node`
AGENTS_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
log = logging.getLogger("lego_serve.ray")


async def answers_as_they_come(broadcast: Any) -> AsyncIterator[Any]:
    """Yield each replica's answer to a broadcast, or the exception it ended with; Serve itself waits for the last.

    Closing the iterator cancels what is still to be answered.
    """
    results = await broadcast._fetch_replica_results_async()
    waiting = {asyncio.ensure_future(result.get_async()): result for result in results}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del waiting[task]
                yield asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()
    finally:
        for task, result in waiting.items():
            task.cancel()
            result.cancel()


def wait_for_a_slow_raylet() -> None:
    """Have ``ray.init`` wait RAYLET_PATIENCE_S for the raylet it starts, which waits for its agents; Ray's own is 30 s.

    Their imports alone were seen to take longer, on two processors that others kept busy.  One that has ended is not
    waited for.
    """
    find = services.get_node
    if hasattr(find, "is_patient"):
        return

    def get_node(*arguments: Any, **named: Any) -> Any:
        limit = time.monotonic() + RAYLET_PATIENCE_S
        while True:
            try:
                return find(*arguments, **named)
            except RuntimeError:
                if time.monotonic() > limit or not _runs_a_raylet():
                    raise
                time.sleep(RAYLET_PAUSE_S)

    get_node.is_patient = True  # type: ignore[attr-defined]
    services.get_node = get_node


def name_ports_of_agents() -> None:
    """Have the raylet that this process starts be told the ports of its agents, and wait long for these to answer.

    One that is not told them ends if its agents have not written theirs down within 15 s, whatever is set: less than
    they take to be imported on two processors that others keep busy.
    """
    os.environ.setdefault(AGENT_PATIENCE, str(int(RAYLET_PATIENCE_S * 1000)))
    if issubclass(parameter.RayParams, _NamedPorts):
        return
    parameter.RayParams = type("RayParams", (_NamedPorts, parameter.RayParams), {})
    start = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *arguments: Any, **named: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_RAYLET:
            command = [*command, *_port_it_is_not_told(command)]
        return start(command, process_type, *arguments, **named)

    services.start_ray_process = start_ray_process


def _port_it_is_not_told(command: Sequence[str]) -> list[str]:
    """The argument of a raylet that Ray leaves out, although it gives that port to the agent the raylet starts."""
    port = re.search(r"--listen-port=([1-9]\d*)", " ".join(command))
    return [] if port is None else [f"--dashboard_agent_listen_port={port[1]}"]


class _NamedPorts:
    """Parameters of a Ray whose agents' ports are chosen here, before it starts, from those that are free.

    Also the one that Ray has a number for: of two Rays with the same the second one's raylet ends.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        of_ray = ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
        unnamed = [name for name in AGENTS_PORTS if getattr(self, name) in (None, 0, of_ray)]
        for name, port in zip(unnamed, _free_ports(len(unnamed)), strict=True):
            setattr(self, name, port)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now, each another one."""
    found: list[int] = []
    for port in random.sample(PORTS_TO_NAME, len(PORTS_TO_NAME)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def keep_to_this_machine() -> None:
    """Have Serve's server for calls between replicas listen on loopback where Ray does; call it in a replica.

    Serve has it on all addresses, whatever Ray's own processes do.
    """
    if os.environ.get(LOCAL_RAY) != "0":
        return
    from ray.serve._private import replica  # here, where replicas have it already: others need not import it

    if hasattr(replica.add_port_to_grpc_server, "is_local"):
        return
    add_port = replica.add_port_to_grpc_server

    def add_local_port(server: Any, address: str) -> int:
        port: int = add_port(server, address.replace("[::]", "127.0.0.1"))
        return port

    add_local_port.is_local = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = add_local_port


def _runs_a_raylet() -> bool:
    return any(command_of(pid) == "raylet" and is_alive(pid) for pid in children(os.getpid()))


def log_like_this_process() -> None:
    """Have Ray and Serve log as the rest of this process does, also what they would print; call it once Ray runs."""
    worker.print_to_stdstream = _log_lines
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _log_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Log what Ray would print: ``lines`` by the process ``pid``, which may be a name."""
    for line in data["lines"]:
        log.warning("%s: %s", data["pid"], line)


class KeyValueStore:
    """Ray's own key-value store, in which texts last as long as Ray does; a call waits shortly for the head's answer.

    Every method raises ConnectionError where this process has not joined Ray, and RayError where the head is away.
    """

    NAMESPACE, PATIENCE_S = b"lego_serve", 0.5

    def get(self, key: str) -> str:
        """Return a text, an empty one where there is none."""
        return (_gcs_client().internal_kv_get(key.encode(), self.NAMESPACE, timeout=self.PATIENCE_S) or b"").decode()

    def put(self, key: str, text: str) -> None:
        """Write a text."""
        _gcs_client().internal_kv_put(key.encode(), text.encode(), True, self.NAMESPACE, timeout=self.PATIENCE_S)

    def remove(self, key: str) -> None:
        """Remove a text."""
        _gcs_client().internal_kv_del(key.encode(), False, self.NAMESPACE, timeout=self.PATIENCE_S)

    def keys(self, beginning: str) -> list[str]:
        """Return the keys that begin so."""
        found = _gcs_client().internal_kv_keys(beginning.encode(), self.NAMESPACE, timeout=self.PATIENCE_S)
        return [key.decode() for key in found]


def cluster_room(timeout_s: float = 0.5) -> ClusterRoom:
    """Return what of Ray's actors no node has room for, and what its autoscaler, of version 2, says of that.

    Raises what NO_RAY names where Ray does not answer.
    """
    reply = autoscaler_pb2.GetClusterStatusReply.FromString(_gcs_client().get_cluster_status(timeout_s=timeout_s))
    pending = reply.cluster_resource_state.pending_resource_requests
    return ClusterRoom(
        tuple((_ask(each.request), each.count) for each in pending),
        tuple(_ask(each) for each in reply.autoscaling_state.infeasible_resource_requests),
        reply.HasField("autoscaling_state"),
    )


def _ask(request: Any) -> Ask:
    """What Ray says of one request, without what Serve adds for `max_per_node`."""
    bundle = request.resources_bundle.items()
    amounts = {name: amount for name, amount in bundle if not name.startswith(PER_NODE)}
    rules = [
        LabelRule(rule.label_key, frozenset(rule.label_values), rule.operator == common_pb2.LABEL_OPERATOR_NOT_IN)
        for selector in request.label_selectors[:1]  # further ones are those to fall back to
        for rule in selector.label_constraints
    ]
    return Ask(amounts, frozenset(rules))


def _gcs_client() -> Any:
    client = internal_kv.internal_kv_get_gcs_client()
    if client is None:
        raise ConnectionError("this process has not joined Ray")
    return client
