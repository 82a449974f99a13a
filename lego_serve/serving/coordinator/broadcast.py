"""What is asked of all replicas of a node at once: who is there, to leave, and about templates.

Imports no torch, for it is the coordinator's.
"""

import asyncio
import logging
from collections.abc import Mapping
from itertools import chain, repeat
from typing import Protocol

from lego_serve.core.editing.templates import TemplateCommand
from lego_serve.errors import NodeUnavailable, NotFound
from lego_serve.serving.errors import NodeLost


class ControllableNode(Protocol):
    """A deployment whose replicas take orders."""

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """Say something about a replica, a call or an image to every replica; answers what each says.

        One that has died says nothing.  Raises NodeLost where one that may live, or nobody, answers.
        """
        ...


log = logging.getLogger("lego_serve.coordinator")

Nodes = Mapping[tuple[str, str], ControllableNode]  # by model and component
PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # the last of them from then on
PATIENCE_S = 20.0  # on a busy machine Ray takes its time to find out who has died, the more the more did


async def list_replicas(nodes: Nodes, patience_s: float = PATIENCE_S) -> dict[str, str]:
    """The backbone replicas there are: id to the node they belong to.  Raises NodeUnavailable."""
    said = await _said_by_backbones(nodes, "list", "", patience_s)
    return {replica: node for node, answers in said.items() for replica, _ in answers}


async def drain(nodes: Nodes, replica: str, patience_s: float = PATIENCE_S) -> int:
    """Move a replica's lanes elsewhere and have it replaced.  Raises NotFound or NodeUnavailable."""
    for answers in (await _said_by_backbones(nodes, "drain", replica, patience_s)).values():
        for said, moved in answers:
            if said == replica and moved is not None:
                return moved
    raise NotFound("There is no backbone replica of this id.", code="replica_not_found")


async def ask_template(nodes: Nodes, order: TemplateCommand, patience_s: float = PATIENCE_S) -> dict[str, int]:
    """What each backbone replica of a model says; its autoencoders are told to forget as well.

    Raises NodeUnavailable.
    """
    told = [node for (model, component), node in nodes.items() if (model, component) == (order.model, "backbone")]
    if order.verb == "forget":
        told += [node for (_, component), node in nodes.items() if component == "vae"]
    verb = f"template_{order.verb}"
    answers = await asyncio.gather(*(broadcast(node, verb, order.name, patience_s) for node in told))
    return {replica: said for replica, said in answers[0] if said is not None} if answers else {}


async def _said_by_backbones(
    nodes: Nodes, order: str, name: str, patience_s: float
) -> dict[str, list[tuple[str, int | None]]]:
    """What every backbone replica says, by the node it belongs to."""
    asked = {f"{model}.{component}": node for (model, component), node in nodes.items() if component == "backbone"}
    answers = await asyncio.gather(*(broadcast(node, order, name, patience_s) for node in asked.values()))
    return dict(zip(asked, answers, strict=True))


async def broadcast(
    node: ControllableNode, order: str, name: str, patience_s: float = PATIENCE_S
) -> list[tuple[str, int | None]]:
    """What every replica of a node says to an order, which may be given twice.

    Raises NodeUnavailable where not all of them can be asked for so long.
    """
    clock = asyncio.get_running_loop().time
    limit = clock() + patience_s
    for pause_s in chain(PAUSES_S, repeat(PAUSES_S[-1])):
        try:
            return await node.control(order, name)
        except NodeLost as lost:
            why, left = lost, limit - clock()
        if left <= 0:
            break
        await asyncio.sleep(min(pause_s, left))
    log.warning("replicas could not be reached for %g s (%s): %s", patience_s, order, why, exc_info=why)
    said = f"Replicas could not be reached for {patience_s:g} s ({order}); they are being replaced. Ask again."
    raise NodeUnavailable(said, code="replica_lost")
