"""A ControlNet in another process, in this one: nodes that lose calls, and lanes of its steps."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import torch

from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.ragged.controlnet_source import ControlNetLane, ControlNetSource, ControlNetSpec
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.controlnets.messages import RunControlNetStep
from lego_serve.serving.nodes.controlnets.node import ControlNetNode
from lego_serve.serving.nodes.controlnets.remote import RemoteControlNet


class Wire:
    """A node some of whose calls are lost, slow or answered wrongly; it notes what was sent with each."""

    def __init__(self, node: ControlNetNode, lost: int = 0, delay_s: float = 0.0) -> None:
        self.node, self.lost, self.delay_s = node, lost, delay_s
        self.other = node
        self.sent: list[int] = []
        self.running = self.most_running = 0

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call."""
        self._note(call)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(self.delay_s)
            return await self.node.run(call)
        finally:
            self.running -= 1

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """One call, whose replica dies after the first residual where it is to be lost."""
        self.sent.append(len(call.request.content))  # type: ignore[attr-defined]
        yield CallAccepted("r1")
        async for message in self.node.stream(call):
            yield message
            if self.lost > 0:
                self.lost -= 1
                raise NodeLost

    def _note(self, call: NodeCall[Any]) -> None:
        if isinstance(call.request, RunControlNetStep):
            self.sent.append(len(call.request.content))
        self.lost -= 1
        if self.lost >= 0:
            raise NodeLost


def lane(source: ControlNetSource, seed: int, size: int = 16) -> ControlNetLane:
    """A guided lane as a source prepared it."""
    draw = torch.Generator().manual_seed(seed)
    conds = [
        source.prepare(Conditioning(torch.randn(7, 192, generator=draw), torch.randn(192, generator=draw)))
        for _ in "ab"
    ]
    image = source.image(torch.randn(8, size, size, generator=draw))
    return ControlNetLane(torch.randn(8, size, size, generator=draw), 0.5, 4.0, image, conds[0], conds[1])


async def step(source: ControlNetSource, *lanes: ControlNetLane) -> list[torch.Tensor]:
    """All residuals of a step, waited for as the compute thread does."""
    residuals = source.start(lanes)
    return [(await asyncio.to_thread(residuals.block, i)).clone() for i in range(source.spec.residuals)]  # type: ignore[union-attr]


def source_of(
    wire: Wire, spec: ControlNetSpec, *, per_block: bool = False, timeout_s: float = 60.0
) -> RemoteControlNet:
    """The source on the backbone's side."""
    return RemoteControlNet(wire, spec, torch.float32, timeout_s, per_block=per_block)


def widths(base: ModelSpec, spec: ModelSpec) -> ControlNetSource:
    """The ControlNet in this process."""
    return load_controlnet(spec, base)
