"""Nodes for tests: hand-written ones under a coordinator, and how a LoRA node is asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lego_serve.core.addons import AdapterRequest, LoadedAdapter
from lego_serve.core.jobs.job import Job, TaskStats
from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult
from lego_serve.core.nodes.messages import (
    DecodeOutput,
    DenoiseOutput,
    LoadAdaptersInput,
    LoadAdaptersOutput,
    TextEncodeInput,
    TextEncodeOutput,
)
from lego_serve.core.nodes.requests import AdapterAdminRequest, DrainReplica, ListResidentAdapters, ReplicaCommand
from lego_serve.core.scheduling.retry import RetryPolicy
from lego_serve.core.workflow.bind import bind
from lego_serve.errors import RequestError
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.adapter_cache import AdapterCache, LoraNodeHandle
from lego_serve.serving.coordinator.coordinator import Coordinator
from lego_serve.serving.nodes.backbone import BackboneNode
from lego_serve.serving.nodes.controlnets.remote import ControlNetHandle
from lego_serve.serving.nodes.lora import LoraNode
from lego_serve.serving.nodes.options import AdapterOptions, BackboneOptions, ControlNetPlan, TextEncoderOptions
from lego_serve.serving.nodes.peers import NodePeers
from lego_serve.serving.nodes.text_encoder import TextEncoderNode
from lego_serve.workflow_files import built_in_workflows

WORKFLOWS = built_in_workflows()
IMAGES = DecodeOutput(np.zeros((2, 4, 6, 3), np.uint8))
CONDITIONING = TextEncodeOutput(np.ones((2, 3), np.float32), np.ones(3, np.float32))
LATENTS = DenoiseOutput(np.ones((1, 4, 2, 2), np.float32))


class FakeNode:
    """Answers with ``behave`` and notes what it was asked."""

    is_ready = True
    hosted = ""

    def __init__(self, behave: Callable[[NodeCall[Any], int], object]) -> None:
        self.behave = behave
        self.calls: list[NodeCall[Any]] = []
        self.running = self.most_running = 0
        self.cancelled = 0
        self.commands: list[ReplicaCommand] = []
        self.says: dict[int, list[Message]] = {}  # by the number of the call
        self.has: tuple[str, ...] | None = ()

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """One call, a little later."""
        self.calls.append(call)
        return await self._answer(call)

    async def _answer(self, call: NodeCall[Any]) -> NodeResult[Any]:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(0.01)
            outcome = self.behave(call, len(self.calls))
            if isinstance(outcome, float):
                await asyncio.sleep(outcome)
                outcome = CONDITIONING
            if isinstance(outcome, Exception) and not isinstance(outcome, RequestError):
                raise outcome
            if isinstance(outcome, RequestError):
                return NodeResult(error=outcome)
            return NodeResult(outcome, TaskStats(0.1, 0.2))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """The same as messages: accepted by replica r1, r2, ..., whatever is in ``says``, and the answer."""
        self.calls.append(call)
        number = len(self.calls)
        yield CallAccepted(f"r{number}")
        for message in self.says.get(number, ()):
            yield message
            await asyncio.sleep(0.001)
        yield await self._answer(call)

    async def control(self, command: ReplicaCommand) -> list[tuple[str, Any]]:
        """Two replicas, of which r1 has a call to move; commands about calls are heard the second time.

        Of adapters r1 has those in ``has``; a node that has nothing to say of them does not answer.
        """
        self.commands.append(command)
        if isinstance(command, ListResidentAdapters):
            if self.has is None:
                await asyncio.Event().wait()
            return [("r1", tuple(self.has or ()))]
        heard = command == DrainReplica("r1") or self.commands.count(command) == 2
        return [("r1", 1 if heard else None), ("r2", None)]


def now() -> float:
    """The time of the running loop, by which fake nodes take theirs."""
    return asyncio.get_running_loop().time()


def nodes(text: object = None, denoise: object = None) -> dict[tuple[str, str], FakeNode]:
    """A model whose text encoder or backbone may be told to misbehave."""
    made = {
        "text_encoder": FakeNode(lambda call, count: text if text is not None else CONDITIONING),
        "backbone": FakeNode(lambda call, count: denoise if denoise is not None else LATENTS),
        "vae": FakeNode(lambda call, count: IMAGES),
    }
    return {("lego-tiny", component): node for component, node in made.items()}


def coordinator(some: dict[tuple[str, str], FakeNode]) -> Coordinator:
    """A coordinator over them, by the loop's clock."""
    return Coordinator(some, WORKFLOWS, now, {"lego-tiny": 5}, retry=RetryPolicy(20, (0.01,)))


BYTES = 1 << 20


async def resolved(node: LoraNode, *names: str) -> tuple[LoadedAdapter, ...]:
    """What the node says at once that these are.  Raises its error."""
    request = LoadAdaptersInput(tuple(AdapterRequest(name) for name in names))
    reply: LoadAdaptersOutput = (await node.run(NodeCall(request))).reply
    return reply.adapters


async def load(node: LoraNode, *names: str) -> tuple[LoadedAdapter, ...]:
    """What they are when their files have been read.  Raises the node's error."""
    return tuple(await AdapterCache(node, (), 0).identify(await resolved(node, *names)))


async def command(node: LoraNode, request: AdapterAdminRequest) -> Any:
    """The reply to an operator's request.  Raises its error."""
    return (await node.run(NodeCall(request))).reply


def backbone_node(
    spec: ModelSpec,
    lora_node: LoraNodeHandle | None = None,
    controlnets: Sequence[ControlNetPlan] = (),
    peers: Mapping[str, ControlNetHandle] | None = None,
    cache_bytes: int = 1 << 24,
    **options: Any,
) -> BackboneNode:
    """A backbone's node that runs lanes as they come; ``options`` as ``BackboneOptions`` has them."""
    adapters = None if lora_node is None else AdapterOptions("", cache_bytes)
    chosen = BackboneOptions(lane_policy="fifo", adapters=adapters, controlnets=tuple(controlnets), **options)
    return BackboneNode(spec, chosen, NodePeers(lora_node, peers or {}))


def text_node(
    spec: ModelSpec, max_batch: int, lora_node: LoraNodeHandle | None = None, cache_bytes: int = 1 << 24
) -> TextEncoderNode:
    """A text encoder's node."""
    adapters = None if lora_node is None else AdapterOptions("", cache_bytes)
    return TextEncoderNode(spec, TextEncoderOptions(max_batch, 1 << 24, adapters), NodePeers(lora_node))


async def encoded(text: TextEncoderNode, prompt: str, adapters: LoadAdaptersOutput | None = None) -> TextEncodeOutput:
    """The conditioning of a prompt.  Raises the node's error."""
    return (await text.run(NodeCall(TextEncodeInput(prompt, adapters)))).reply


async def denoised(node: BackboneNode, call: NodeCall[DenoiseOutput]) -> NodeResult[DenoiseOutput]:
    """The last message of a denoising call."""
    result = [message async for message in node.stream(call)][-1]
    assert isinstance(result, NodeResult)
    return result


def latents_of(result: NodeResult[DenoiseOutput]) -> np.ndarray:
    """The latents of a result.  Raises its error."""
    return np.asarray(result.reply.latents)


def job(deadline_s: float | None = None) -> Job:
    """A job whose inputs are bound."""
    inputs = bind(WORKFLOWS["lego-tiny"], {"prompt": "a", "seed": 2**32 - 1, "n": 2})
    return Job("job-1", "lego-tiny", inputs, now(), deadline_s)
