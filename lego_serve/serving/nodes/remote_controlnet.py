"""A ControlNet in another process, as the backbone's compute thread sees it: begun at once, waited for where needed.

All ControlNets of a step are begun before the backbone's first block, and their calls run side by side on the
replica's event loop.  A call whose replica dies is made again, with the images and prompts that another one lacks.
Where none answers soon the ControlNet is away: the step is told so, so that lanes without it go on, and whoever has
lanes that wait is told when it answers again.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lego_serve.core.jobs.messages import ControlNetResidual, Message, NodeCall, NodeResult
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.controlnet.common import tell_ran
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
from lego_serve.serving.nodes.availability import AvailabilityWatch, ControlNetListener

log = logging.getLogger("lego_serve.nodes")
RETRY_PAUSE_S = 0.05
GRACE_S = 0.3  # for another replica to take a lost call, before the ControlNet counts as away
PATIENCE_S = 2.0  # for an answer where no call was lost; more where answers take long
SENT = 4096  # keys remembered as sent
ROUNDS = 5  # a step is sent again for what is missing so many times


class ControlNetHandle(Protocol):
    """The deployment of a ControlNet."""

    async def run(self, call: NodeCall) -> NodeResult:
        """Make a call.  Raises NodeLost."""
        ...

    def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Make a call that tells of each residual.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class _Prompt(PreparedPrompt):
    """A prompt, with what is sent of it."""

    message: PromptMessage | None = None


@dataclass(frozen=True, slots=True)
class _Image(ControlImage):
    """An image, with what is sent of it."""

    message: ImageMessage | None = None


@dataclass(slots=True)
class _Step:
    """A step that was begun: what is sent, whom it is for, and where its residuals go."""

    lanes: Sequence[ControlNetLane]
    message: StepMessage
    content: dict[str, ImageMessage | PromptMessage]
    mailbox: ResidualBuffer
    is_lost: bool = False  # a replica died that had it


class RemoteControlNet:
    """The source of a ControlNet's residuals.  Made on the event loop that its calls are to run on."""

    def __init__(
        self,
        node: ControlNetHandle,
        spec: ControlNetSpec,
        dtype: torch.dtype,
        timeout_s: float,
        *,
        per_block: bool = False,
        presence: ControlNetListener | None = None,
    ) -> None:
        self.spec = spec
        self._node, self._dtype, self._timeout_s, self._per_block = node, dtype, timeout_s, per_block
        self._loop = asyncio.get_running_loop()
        self._watch = AvailabilityWatch(spec.name, self._answers, timeout_s, presence)
        self._patience_s = min(PATIENCE_S, timeout_s)
        self._took_s = 0.0
        self._sent: OrderedDict[str, None] = OrderedDict()  # used on the loop alone

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """The conditioning as it is, with its message."""
        message = prompt_message(cond, mode)
        return _Prompt(cond.tokens, cond.pooled, message.key, message)

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """The latents as they are, with their message."""
        message = image_message(latents, key)
        return _Image(latents, message.key, message)

    def start(self, lanes: Sequence[ControlNetLane]) -> Residuals:
        """Begin a step; its residuals come by themselves.  Raises ControlAway."""
        if self._watch.is_away:
            raise self._away()
        content: dict[str, ImageMessage | PromptMessage] = {}
        for lane in lanes:
            for part in (lane.image, lane.cond, lane.negative):
                if isinstance(part, _Prompt | _Image) and part.message is not None:
                    content[part.key] = part.message
        mailbox = ResidualBuffer(self.spec.residuals, self._dtype, self._timeout_s + 1)
        step = _Step(lanes, step_message(lanes), content, mailbox)
        asyncio.run_coroutine_threadsafe(self._ask(step), self._loop)
        return mailbox

    async def _answers(self) -> None:
        """Return when a replica answers."""
        while True:
            try:
                await self._node.run(NodeCall("control_form", {}))
            except (NodeLost, LegoError):
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                return

    def _away(self) -> ControlNetUnavailable:
        return ControlNetUnavailable(f"ControlNet {self.spec.name} cannot be reached now.", self.spec.name)

    async def _ask(self, step: _Step) -> None:
        """Make the call until it is answered; whatever ends it reaches the mailbox."""
        started = time.monotonic()
        limit_s = self._patience_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await self._until_answered(step, limit)
        except TimeoutError:
            self._late(step, limit_s)
        except LegoError as error:
            step.mailbox.fail(error)
        except Exception as error:
            log.exception("a call of ControlNet %s failed", self.spec.name)
            step.mailbox.fail(error)
        else:  # one that is slow is waited for, one that was quick is not
            self._took_s = time.monotonic() - started
            self._patience_s = min(max(PATIENCE_S, 2 * self._took_s), self._timeout_s)

    def _late(self, step: _Step, limit_s: float) -> None:
        """The call was lost and nobody took it soon, or its answer takes too long."""
        if limit_s >= self._timeout_s and not step.is_lost:
            late = f"ControlNet {self.spec.name} did not answer within {self._timeout_s:g} s."
            step.mailbox.fail(NodeError(late, code="controlnet_late"))
            return
        if not step.is_lost:
            self._patience_s = min(2 * limit_s, self._timeout_s)
        self._watch.begin()  # before the step hears of it, which may begin anew at once
        step.mailbox.fail(self._away())

    async def _until_answered(self, step: _Step, limit: asyncio.Timeout) -> None:
        send = [message for key, message in step.content.items() if key not in self._sent]
        rounds, lacked = 0, dict[str, None]()
        while rounds < ROUNDS:
            try:
                call = NodeCall("control_step", {"step": step.message, "content": tuple(send)})
                missing = await self._once(call, step)
            except NodeLost:
                if not step.is_lost:
                    step.is_lost = True
                    limit.reschedule(self._loop.time() + GRACE_S + self._took_s)
                self._sent.clear()  # whoever answers next may know nothing
                send = list(step.content.values())
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            self._remember(step.content)
            if not missing:
                return
            lacked |= dict.fromkeys(missing)  # of two replicas by turns each may lack what the other has just been sent
            send = [step.content[key] for key in lacked]
            rounds += 1
        raise NodeError(f"ControlNet {self.spec.name} forgets what it is sent.", code="controlnet_failed")

    async def _once(self, call: NodeCall, step: _Step) -> Sequence[str]:
        """One call; answers the keys of what the replica lacks.  Raises NodeLost, or what the ControlNet raised."""
        if not self._per_block:
            return _taken(await self._node.run(call), step)
        async with contextlib.aclosing(self._node.stream(call)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if isinstance(message, ControlNetResidual):
                    self._remember(step.content)  # before the next step begins, which may be before this one's answer
                    if message.index + 1 == self.spec.residuals:
                        tell_ran(step.lanes, message.began_s, message.made_s)
                    step.mailbox.put(message.index, message.value)
                elif isinstance(message, NodeResult):
                    return _taken(message, step)
        raise NodeLost

    def _remember(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._sent[key] = None
            self._sent.move_to_end(key)
        while len(self._sent) > SENT:
            self._sent.popitem(last=False)


def _taken(answer: NodeResult, step: _Step) -> Sequence[str]:
    if answer.error is not None:
        raise answer.error
    value: Any = answer.value
    if residuals := value.get("residuals", ()):  # which have not come one by one
        tell_ran(step.lanes, *value["ran"])
    for index, residual in enumerate(residuals):
        step.mailbox.put(index, residual)
    missing: Sequence[str] = value.get("missing", ())
    return missing
