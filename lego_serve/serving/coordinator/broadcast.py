"""Sends commands to all replicas of a node.  Imports no torch: gateway processes use it."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol, TypeVar

from lego_serve.core.nodes.requests import (
    DrainReplica,
    ForgetTemplate,
    Identify,
    ReplicaCommand,
    ReportLoad,
    SeenReplica,
    TemplateCommand,
    process_of,
)
from lego_serve.core.scheduling.retry import BROADCAST, RetryPolicy
from lego_serve.core.workflow.graph import is_backbone
from lego_serve.errors import LegoError, NodeUnavailable, NotFound
from lego_serve.serving.errors import NodeLost

ReplyT = TypeVar("ReplyT")
LOAD_PATIENCE_S = 1.0  # for loads, which are asked for every second while somebody looks
log = logging.getLogger("lego_serve.coordinator")


class ControllableNode(Protocol):
    """A deployment whose replicas take commands."""

    async def control(self, command: ReplicaCommand[ReplyT]) -> list[tuple[str, ReplyT | None]]:
        """Send a command to every replica; return each id and reply, None from a replica it is not for.

        Dead replicas are skipped.  Raises NodeLost if a replica that may live does not answer, or if none answers.
        """
        ...


Nodes = Mapping[tuple[str, str], ControllableNode]  # by model and component


async def list_replicas(nodes: Nodes, retry: RetryPolicy = BROADCAST) -> dict[str, str]:
    """Return the backbone replicas: id to the node they belong to.  Raises NodeUnavailable."""
    replies = await _ask_backbones(nodes, Identify(), retry)
    return {replica: node for node, answers in replies.items() for replica, _ in answers}


async def report_loads(nodes: Nodes, patience_s: float = LOAD_PATIENCE_S) -> list[SeenReplica]:
    """Return the replicas of all nodes that answer in time; a node that does not is left out, and asked but once."""

    async def ask(key: tuple[str, str], node: ControllableNode) -> list[SeenReplica]:
        try:
            async with asyncio.timeout(patience_s):
                answers = await node.control(ReportLoad())
        except (TimeoutError, NodeLost, LegoError):
            return []
        return [SeenReplica(replica, *key, load) for replica, load in answers if load is not None]

    found = await asyncio.gather(*(ask(key, node) for key, node in nodes.items()))
    return [replica for each in found for replica in each]


async def drain(nodes: Nodes, replica: str, retry: RetryPolicy = BROADCAST) -> int:
    """Move a replica's lanes elsewhere, replace it; return how many calls moved.  Raises NotFound, NodeUnavailable.

    A shared worker is drained with all its nodes, whichever of them is named.
    """
    process = process_of(replica)
    replies = await _ask_backbones(nodes, DrainReplica(process), retry)
    moved = [count for answers in replies.values() for answering, count in answers if answering == process]
    counts = [count for count in moved if count is not None]
    if not counts:
        raise NotFound("There is no backbone replica of this id.", code="replica_not_found")
    return sum(counts)


async def ask_about_template(
    nodes: Nodes, model: str, command: TemplateCommand[ReplyT], retry: RetryPolicy = BROADCAST
) -> dict[str, ReplyT]:
    """Return the reply of each backbone replica of a model; ForgetTemplate goes to the VAEs as well.

    Raises NodeUnavailable.
    """
    receivers = [node for key, node in nodes.items() if key == (model, "backbone")]
    if isinstance(command, ForgetTemplate):
        receivers += [node for (_, component), node in nodes.items() if component == "vae"]
    replies = await asyncio.gather(*(broadcast(node, command, retry) for node in receivers))
    return {replica: reply for replica, reply in replies[0] if reply is not None} if replies else {}


async def _ask_backbones(
    nodes: Nodes, command: ReplicaCommand[ReplyT], retry: RetryPolicy
) -> dict[str, list[tuple[str, ReplyT | None]]]:
    """Return the reply of every backbone replica, by the node it belongs to."""
    backbones = {f"{model}.{component}": node for (model, component), node in nodes.items() if is_backbone(component)}
    replies = await asyncio.gather(*(broadcast(node, command, retry) for node in backbones.values()))
    return dict(zip(backbones, replies, strict=True))


async def broadcast(
    node: ControllableNode, command: ReplicaCommand[ReplyT], retry: RetryPolicy = BROADCAST
) -> list[tuple[str, ReplyT | None]]:
    """Return the reply of every replica of a node to a command, which some may receive twice.

    Raises NodeUnavailable if the policy's attempts, or the sum of its pauses, do not suffice to reach all of them.
    """
    name, clock = type(command).__name__, asyncio.get_running_loop().time
    limit = clock() + retry.longest_s
    for pause_s in (*retry.pauses(), None):
        try:
            return await node.control(command)
        except NodeLost as lost:
            why, left_s = lost, limit - clock()
        if pause_s is None or left_s <= 0:
            break
        await asyncio.sleep(min(pause_s, left_s))
    log.warning("replicas could not be reached for %g s (%s): %s", retry.longest_s, name, why, exc_info=why)
    message = f"Replicas could not be reached for {retry.longest_s:g} s ({name}); they are being replaced. Ask again."
    raise NodeUnavailable(message, code="replica_lost")
