"""The class that Ray Serve runs: one node of a model in a replica's process."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve

from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult
from lego_serve.models.registry import ModelSpec


class NodeReplica:
    """What Ray Serve runs: one node, whose libraries are imported in the replica's process alone."""

    def __init__(self, component: str, spec: ModelSpec, arguments: Mapping[str, Any]) -> None:
        from lego_serve.process import json_logging
        from lego_serve.serving.nodes.text_encoder import NODES

        json_logging.install()
        self._node: Any = NODES[component](spec, **_with_nodes(arguments))
        self._id = serve.get_replica_context().replica_id.unique_id

    async def run(self, call: NodeCall) -> NodeResult:
        """Run one task."""
        answer: NodeResult = await self._node.run(call)
        return answer

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Run one task that says how it gets on."""
        yield CallAccepted(self._id)
        async for message in self._node.stream(call):
            yield message

    async def control(self, order: str, name: str) -> tuple[str, int | None]:
        """Broadcast: ``list`` answers this replica's id; ``drain`` moves its lanes away if it is the one named.

        ``pause`` and ``resume`` say how many lanes of the call named are here; ``template_VERB`` asks what a
        `TemplateOrder` does.
        """
        if order == "drain" and name == self._id:
            return self._id, await self._node.drain()
        if order in ("pause", "resume"):
            return self._id, self._node.pause(name, order == "pause")
        if order.startswith("template_") and hasattr(self._node, "template"):
            return self._id, await self._node.template(order.removeprefix("template_"), name)
        return self._id, None

    def record_routing_stats(self) -> dict[str, Any]:
        """What Serve tells routers of this replica now and then: what of templates it has, and how much."""
        if not hasattr(self._node, "templates"):
            return {}
        return {"templates": self._node.templates(), "template_use": self._node.template_use()}

    async def resident(self) -> tuple[str, tuple[str, ...]]:
        """Broadcast: this replica's id, and the adapters it has at hand, by their hashes."""
        return self._id, self._node.resident()

    async def check_health(self) -> None:
        """Raise when the node cannot work."""
        await self._node.check_health()


def _with_nodes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A node's arguments, with handles where the plan names other deployments."""
    from lego_serve.serving.cluster.handles import LazyNode

    found = dict(arguments)
    if (app := found.pop("adapters_app", None)) is not None:
        found["LoRA node"] = LazyNode(app)
    if "controlnets" in found:
        found["control_nodes"] = {plan.spec.name: LazyNode(plan.app) for plan in found["controlnets"]}
    return found
