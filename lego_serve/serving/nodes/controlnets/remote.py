"""A ControlNet in another process, as the backbone's compute thread sees it.

All ControlNets of a step are started before the backbone's first block, and their calls run side by side on the
replica's event loop.  A call whose replica dies is made again, with the images and prompts that another one lacks.
Without an answer in time the ControlNet counts as unavailable: the step fails with ControlNetUnavailable, so that lanes
without it go on, and the listener resumes the waiting lanes when it answers again.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from lego_serve.core.jobs.messages import ControlNetResidual, Message, NodeCall, NodeResult
from lego_serve.core.scheduling.retry import (
    CONTROLNET_GRACE_S,
    CONTROLNET_PATIENCE_S,
    CONTROLNET_PAUSE_S,
    CONTROLNET_ROUNDS,
)
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.controlnet.common import report_pass
from lego_serve.models.controlnet.messages import (
    ImageMessage,
    PromptMessage,
    ResidualBuffer,
    StepMessage,
    image_message,
    prompt_message,
    step_message,
)
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import (
    ControlImage,
    ControlNetLane,
    ControlNetSpec,
    ControlNetUnavailable,
    Residuals,
)
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.controlnets.availability import AvailabilityWatch, ControlNetListener
from lego_serve.serving.nodes.controlnets.messages import (
    ControlNetStepResult,
    DescribeControlNet,
    RunControlNetStep,
)

log = logging.getLogger("lego_serve.nodes")
ReplyT = TypeVar("ReplyT")
SENT = 4096  # keys remembered as sent


class ControlNetHandle(Protocol):
    """The deployment of a ControlNet."""

    async def run(self, call: NodeCall[ReplyT]) -> NodeResult[ReplyT]:
        """Make a call.  Raises NodeLost."""
        ...

    def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Make a call that streams its residuals.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class _Prompt(PreparedPrompt):
    """A prompt with its message."""

    message: PromptMessage | None = None


@dataclass(frozen=True, slots=True)
class _Image(ControlImage):
    """An image with its message."""

    message: ImageMessage | None = None


@dataclass(slots=True)
class _Step:
    """A started step: its lanes, its message and content, and the buffer of its residuals."""

    lanes: Sequence[ControlNetLane]
    message: StepMessage
    content: dict[str, ImageMessage | PromptMessage]
    buffer: ResidualBuffer
    is_lost: bool = False  # its replica died


class RemoteControlNet:
    """The source of a remote ControlNet's residuals; created on the event loop that runs its calls."""

    def __init__(
        self,
        node: ControlNetHandle,
        spec: ControlNetSpec,
        dtype: torch.dtype,
        timeout_s: float,
        *,
        per_block: bool = False,
        listener: ControlNetListener | None = None,
    ) -> None:
        self.spec = spec
        self._node, self._dtype, self._timeout_s, self._per_block = node, dtype, timeout_s, per_block
        self._loop = asyncio.get_running_loop()
        self._watch = AvailabilityWatch(spec.name, self._until_reachable, timeout_s, listener)
        self._patience_s = min(CONTROLNET_PATIENCE_S, timeout_s)
        self._took_s = 0.0
        self._sent: OrderedDict[str, None] = OrderedDict()  # used on the loop alone

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Return the conditioning with its message."""
        message = prompt_message(cond, mode)
        return _Prompt(cond.tokens, cond.pooled, message.key, message)

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Return the latents with their message."""
        message = image_message(latents, key)
        return _Image(latents, message.key, message)

    def start(self, lanes: Sequence[ControlNetLane]) -> Residuals:
        """Start a step; return the buffer of its residuals.  Raises ControlNetUnavailable."""
        if self._watch.is_unavailable:
            raise self._unavailable()
        content: dict[str, ImageMessage | PromptMessage] = {}
        for lane in lanes:
            for part in (lane.image, lane.cond, lane.negative):
                if isinstance(part, _Prompt | _Image) and part.message is not None:
                    content[part.key] = part.message
        buffer = ResidualBuffer(self.spec.residuals, self._dtype, self._timeout_s + 1)
        step = _Step(lanes, step_message(lanes), content, buffer)
        asyncio.run_coroutine_threadsafe(self._call_until_done(step), self._loop)
        return buffer

    async def _until_reachable(self) -> None:
        """Wait until a replica answers."""
        while True:
            try:
                await self._node.run(NodeCall(DescribeControlNet()))
            except (NodeLost, LegoError):
                await asyncio.sleep(CONTROLNET_PAUSE_S)
            else:
                return

    def _unavailable(self) -> ControlNetUnavailable:
        return ControlNetUnavailable(f"ControlNet {self.spec.name} cannot be reached now.", self.spec.name)

    async def _call_until_done(self, step: _Step) -> None:
        """Make the call until it succeeds; its failure goes to the buffer."""
        started = time.monotonic()
        limit_s = self._patience_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await self._until_answered(step, limit)
        except TimeoutError:
            self._fail_late(step, limit_s)
        except LegoError as error:
            step.buffer.fail(error)
        except Exception as error:
            log.exception("a call of ControlNet %s failed", self.spec.name)
            step.buffer.fail(error)
        else:  # a slow ControlNet gets more time than a quick one
            self._took_s = time.monotonic() - started
            self._patience_s = min(max(CONTROLNET_PATIENCE_S, 2 * self._took_s), self._timeout_s)

    def _fail_late(self, step: _Step, limit_s: float) -> None:
        """Fail a step whose call was lost or takes too long."""
        if limit_s >= self._timeout_s and not step.is_lost:
            late = f"ControlNet {self.spec.name} did not answer within {self._timeout_s:g} s."
            step.buffer.fail(NodeError(late, code="controlnet_late"))
            return
        if not step.is_lost:
            self._patience_s = min(2 * limit_s, self._timeout_s)
        self._watch.begin()  # before the step fails, which may start again at once
        step.buffer.fail(self._unavailable())

    async def _until_answered(self, step: _Step, limit: asyncio.Timeout) -> None:
        send = [message for key, message in step.content.items() if key not in self._sent]
        rounds, lacked = 0, dict[str, None]()
        while rounds < CONTROLNET_ROUNDS:
            try:
                call = NodeCall(RunControlNetStep(step.message, tuple(send)))
                missing = await self._once(call, step)
            except NodeLost:
                if not step.is_lost:
                    step.is_lost = True
                    limit.reschedule(self._loop.time() + CONTROLNET_GRACE_S + self._took_s)
                self._sent.clear()  # the next replica may have none of it
                send = list(step.content.values())
                await asyncio.sleep(CONTROLNET_PAUSE_S)
                continue
            self._remember(step.content)
            if not missing:
                return
            lacked |= dict.fromkeys(missing)  # of two replicas by turns each may lack what the other has just been sent
            send = [step.content[key] for key in lacked]
            rounds += 1
        raise NodeError(
            f"ControlNet {self.spec.name} lacks the same content after {CONTROLNET_ROUNDS} rounds.",
            code="controlnet_failed",
        )

    async def _once(self, call: NodeCall[ControlNetStepResult], step: _Step) -> Sequence[str]:
        """Make one call; return the keys that the replica lacks.  Raises NodeLost, or the ControlNet's error."""
        if not self._per_block:
            return _store_residuals(await self._node.run(call), step)
        async with contextlib.aclosing(self._node.stream(call)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if isinstance(message, ControlNetResidual):
                    self._remember(step.content)  # before the next step begins, which may be before this one's answer
                    if message.index + 1 == self.spec.residuals:
                        report_pass(step.lanes, message.began_s, message.made_s)
                    step.buffer.put(message.index, np.asarray(message.value))
                elif isinstance(message, NodeResult):
                    return _store_residuals(message, step)
        raise NodeLost

    def _remember(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._sent[key] = None
            self._sent.move_to_end(key)
        while len(self._sent) > SENT:
            self._sent.popitem(last=False)


def _store_residuals(result: NodeResult[ControlNetStepResult], step: _Step) -> Sequence[str]:
    """Put a step's residuals that were not streamed into its buffer; return the keys that the replica lacks."""
    reply = result.reply
    if reply.residuals and reply.pass_s is not None:
        report_pass(step.lanes, *reply.pass_s)
    for index, residual in enumerate(reply.residuals):
        step.buffer.put(index, residual)
    return reply.missing
