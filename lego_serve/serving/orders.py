"""What is asked of all replicas of a node at once: who is there, to leave, and about templates.

Imports no torch, for it is the coordinator's.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from lego_serve.core.templates import TemplateOrder
from lego_serve.errors import NodeError, NotFound
from lego_serve.serving.denoise import NodeLost


class Ordered(Protocol):
    """A deployment whose replicas take orders."""

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """Say something about a replica, a call or a picture to every replica; answers what each says."""
        ...


Nodes = Mapping[tuple[str, str], Ordered]  # by model and component
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # a replica that has just died is asked too, until Serve has noticed


async def list_replicas(nodes: Nodes) -> dict[str, str]:
    """The backbone replicas there are: id to the node they belong to.  Raises NodeError."""
    found: dict[str, str] = {}
    for (model, component), node in nodes.items():
        if component == "backbone":
            found |= {replica: f"{model}.{component}" for replica, _ in await said_by_all(node, "list", "")}
    return found


async def drain(nodes: Nodes, replica: str) -> int:
    """Move a replica's lanes elsewhere and have it replaced.  Raises NotFound or NodeError."""
    for (_, component), node in nodes.items():
        if component == "backbone":
            for said, moved in await said_by_all(node, "drain", replica):
                if said == replica and moved is not None:
                    return moved
    raise NotFound("There is no backbone replica of this id.", code="replica_not_found")


async def order_template(nodes: Nodes, order: TemplateOrder) -> dict[str, int]:
    """What each backbone replica of a model says; its autoencoders are told to forget as well.  Raises NodeError."""
    told = [node for (model, component), node in nodes.items() if (model, component) == (order.model, "backbone")]
    if order.verb == "forget":
        told += [node for (_, component), node in nodes.items() if component == "vae"]
    answers = await asyncio.gather(*(said_by_all(node, f"template_{order.verb}", order.name) for node in told))
    return {replica: said for replica, said in answers[0] if said is not None} if answers else {}


async def said_by_all(node: Ordered, order: str, name: str) -> list[tuple[str, int | None]]:
    """What every replica of a node says to an order, which may be given twice.  Raises NodeError."""
    for pause_s in PAUSES_S:
        try:
            return await node.control(order, name)
        except NodeLost:
            await asyncio.sleep(pause_s)
    raise NodeError(f"Replicas were lost while they were asked something ({order}); ask again.", code="replica_lost")
