"""The ControlNet node, shared by all workflows and backbone replicas of its base model.

Steps that different backbones request at the same time run in one pass.  Prompts and images are sent once and cached;
the reply to a step with unknown ones names their keys.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import ControlNetResidual, Message, NodeCall, NodeResult
from lego_serve.core.nodes.requests import MemoryUse, ReplicaLoad
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.controlnet.common import run_together
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.controlnet.messages import ImageMessage, PromptImageCache, PromptMessage, StepMessage, to_array
from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.controlnets.messages import (
    ControlNetDescription,
    ControlNetStepResult,
    DescribeControlNet,
    RunControlNetStep,
)
from lego_serve.serving.nodes.microbatch import MicroBatcher
from lego_serve.serving.nodes.options import ControlNetOptions
from lego_serve.serving.nodes.tensors import weights_bytes

log = logging.getLogger("lego_serve.nodes")
MAX_STEPS = 16  # steps of different backbones in one pass
Emit = Callable[[int, np.ndarray, float, float], None]  # a residual, when its pass began and when it was made


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to run, the content sent with it, and a callback for its residuals where they are streamed."""

    message: StepMessage
    content: tuple[ImageMessage | PromptMessage, ...]
    emit: Emit | None = None


StepOutcome: TypeAlias = ControlNetStepResult | LegoError


class ControlNetNode:
    """Computes the residuals of one ControlNet."""

    def __init__(self, spec: ModelSpec, options: ControlNetOptions) -> None:
        torch.set_num_threads(1)
        self._net = load_controlnet(spec, options.base)
        self._weights_bytes = weights_bytes(self._net)
        self._dtype = str(resolve_dtype(spec)).removeprefix("torch.")
        self._cache = PromptImageCache(self._net)
        self._batcher: MicroBatcher[_Step, StepOutcome] = MicroBatcher(self._compute, MAX_STEPS)

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Describe the ControlNet, or compute a step's residuals."""
        match call.request:
            case DescribeControlNet():
                return NodeResult(ControlNetDescription(self._net.spec, self._dtype))
            case RunControlNetStep() as request:
                return await self._answer(_Step(request.step, request.content))
        raise NodeError(f"A ControlNet's node does not know {type(call.request).__name__}.")

    async def stream(self, call: NodeCall[ControlNetStepResult]) -> AsyncIterator[Message]:
        """Compute a step and yield each residual as it is made, then the result without them."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Message]()
        request = call.request
        assert isinstance(request, RunControlNetStep)

        def emit(index: int, residual: np.ndarray, began_s: float, made_s: float) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, ControlNetResidual(index, residual, began_s, made_s))

        async def run() -> None:
            queue.put_nowait(await self._answer(_Step(request.step, request.content, emit)))

        task = asyncio.ensure_future(run())
        try:
            while True:
                message = await queue.get()
                yield message
                if isinstance(message, NodeResult):
                    return
        finally:
            task.cancel()

    def load(self) -> ReplicaLoad:
        """Return what it has in hand."""
        batcher = self._batcher
        memory = (MemoryUse("weights", self._weights_bytes),)
        return ReplicaLoad(batcher.running, batcher.waiting, memory=memory, room=batcher.max_batch)

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _answer(self, step: _Step) -> NodeResult[ControlNetStepResult]:
        started = time.monotonic()
        outcome = await self._batcher.run(step)
        if isinstance(outcome, LegoError):
            return NodeResult(error=outcome)
        return NodeResult(outcome, TaskStats(run_s=time.monotonic() - started))

    def _compute(self, steps: Sequence[_Step]) -> list[StepOutcome]:
        torch.set_num_threads(1)
        keep = {key for step in steps for lane in step.message for key in (lane.image, lane.cond, lane.negative or "")}
        outcomes: dict[int, StepOutcome] = {}
        with torch.inference_mode():
            for number, step in enumerate(steps):
                try:
                    for message in step.content:
                        self._cache.put(message, keep)
                except Exception as error:
                    outcomes[number] = _failure(error)
                    if not isinstance(error, LegoError):
                        log.exception("a prompt or image could not be prepared")
                    continue
                if missing := self._cache.missing(step.message):
                    outcomes[number] = ControlNetStepResult(missing=tuple(sorted(missing)))
            ready = [number for number in range(len(steps)) if number not in outcomes]
            outcomes |= self._together([(number, steps[number]) for number in ready])
        return [outcomes[number] for number in range(len(steps))]

    def _together(self, steps: Sequence[tuple[int, _Step]]) -> dict[int, StepOutcome]:
        """Compute steps in one pass; if it fails, compute each alone, so that only the faulty one fails."""
        if not steps:
            return {}
        made: list[list[np.ndarray]] = [[] for _ in steps]
        began_s = time.time()
        try:
            lanes = [self._cache.lanes(step.message) for _, step in steps]
            for index, residuals in enumerate(run_together(self._net, lanes)):
                for (_, step), own, residual in zip(steps, made, residuals, strict=True):
                    array = to_array(residual)
                    if step.emit is None:
                        own.append(array)
                    else:
                        step.emit(index, array, began_s, time.time())
        except Exception as error:
            if len(steps) == 1:
                log.exception("a ControlNet's step failed")
                return {steps[0][0]: _failure(error)}
            return {number: outcome for step in steps for number, outcome in self._together([step]).items()}
        pass_s = began_s, time.time()
        return {number: ControlNetStepResult(tuple(own), pass_s) for (number, _), own in zip(steps, made, strict=True)}


def _failure(error: Exception) -> LegoError:
    if isinstance(error, LegoError):
        return error
    return NodeError(f"A ControlNet failed: {type(error).__name__}.")
