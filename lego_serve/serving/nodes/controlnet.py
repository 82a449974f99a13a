"""A ControlNet in a deployment of its own, shared by all workflows and backbone replicas of its base model.

Steps that different backbones ask for at the same time run in one pass.  What is the same at every step is sent once
and remembered; a step that names what is not here is answered with what is missing.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import ControlNetResidual, Message, NodeCall, NodeResult
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.controlnet.common import run_together
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.controlnet.messages import ImageMessage, PromptImageCache, PromptMessage, StepMessage, to_array
from lego_serve.models.dtypes import resolve_dtype
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.nodes.microbatch import MicroBatcher

log = logging.getLogger("lego_serve.nodes")
MAX_STEPS = 16  # steps of different backbones in one pass
Emit = Callable[[int, np.ndarray, float, float], None]  # a residual, when its pass began and when it was made


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to run: what it is about, what was sent with it, and who hears of its residuals one by one."""

    message: StepMessage
    content: tuple[ImageMessage | PromptMessage, ...]
    emit: Emit | None = None


Said = dict[str, Any] | LegoError


class ControlNetNode:
    """Residuals of one ControlNet."""

    def __init__(self, spec: ModelSpec, base: ModelSpec) -> None:
        torch.set_num_threads(1)
        self._net = load_controlnet(spec, base)
        self._dtype = str(resolve_dtype(spec)).removeprefix("torch.")
        self._shelf = PromptImageCache(self._net)
        self._batcher: MicroBatcher[_Step, Said] = MicroBatcher(self._compute, MAX_STEPS)

    async def run(self, call: NodeCall) -> NodeResult:
        """Say what the ControlNet takes and answers, or compute a step's residuals."""
        if call.kind == "control_form":
            return NodeResult({"form": self._net.spec, "dtype": self._dtype})
        return await self._answer(_step(call))

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Compute a step, telling each residual as it is made; the answer holds none of them."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Message]()

        def emit(index: int, residual: np.ndarray, began_s: float, made_s: float) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, ControlNetResidual(index, residual, began_s, made_s))

        async def run() -> None:
            queue.put_nowait(await self._answer(_step(call, emit)))

        task = asyncio.ensure_future(run())
        try:
            while True:
                message = await queue.get()
                yield message
                if isinstance(message, NodeResult):
                    return
        finally:
            task.cancel()

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    async def _answer(self, step: _Step) -> NodeResult:
        started = time.monotonic()
        said = await self._batcher.run(step)
        if isinstance(said, LegoError):
            return NodeResult(error=said)
        return NodeResult(said, TaskStats(run_s=time.monotonic() - started))

    def _compute(self, steps: Sequence[_Step]) -> list[Said]:
        torch.set_num_threads(1)
        keep = {key for step in steps for lane in step.message for key in (lane.image, lane.cond, lane.negative or "")}
        said: dict[int, Said] = {}
        with torch.inference_mode():
            for number, step in enumerate(steps):
                try:
                    for message in step.content:
                        self._shelf.put(message, keep)
                except Exception as error:
                    said[number] = _failure(error)
                    if not isinstance(error, LegoError):
                        log.exception("a prompt or image could not be prepared")
                    continue
                if missing := self._shelf.missing(step.message):
                    said[number] = {"missing": tuple(sorted(missing))}
            ready = [number for number in range(len(steps)) if number not in said]
            said |= self._together([(number, steps[number]) for number in ready])
        return [said[number] for number in range(len(steps))]

    def _together(self, steps: Sequence[tuple[int, _Step]]) -> dict[int, Said]:
        """The residuals of steps in one pass; where that fails each is tried alone, and the guilty one told so."""
        if not steps:
            return {}
        made: list[list[np.ndarray]] = [[] for _ in steps]
        began_s = time.time()
        try:
            lanes = [self._shelf.lanes(step.message) for _, step in steps]
            for index, residuals in enumerate(run_together(self._net, lanes)):
                for (_, step), mine, residual in zip(steps, made, residuals, strict=True):
                    array = to_array(residual)
                    if step.emit is None:
                        mine.append(array)
                    else:
                        step.emit(index, array, began_s, time.time())
        except Exception as error:
            if len(steps) == 1:
                log.exception("a ControlNet's step failed")
                return {steps[0][0]: _failure(error)}
            return {number: said for each in steps for number, said in self._together([each]).items()}
        ran = began_s, time.time()
        return {number: {"residuals": mine, "ran": ran} for (number, _), mine in zip(steps, made, strict=True)}


def _failure(error: Exception) -> LegoError:
    if isinstance(error, LegoError):
        return error
    return NodeError(f"A ControlNet failed: {type(error).__name__}.")


def _step(call: NodeCall, emit: Emit | None = None) -> _Step:
    inputs: Any = call.inputs
    return _Step(inputs["step"], tuple(inputs["content"]), emit)
