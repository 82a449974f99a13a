"""A ControlNet in another process, as the backbone's compute thread sees it: begun at once, waited for where needed.

All ControlNets of a step are begun before the backbone's first block, and their calls run side by side on the
replica's event loop.  A call whose replica dies is made again, with the pictures and prompts that another one lacks.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lego_serve.core.wire import Answer, Call, Message, Residual
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.base import Conditioning, Prepared
from lego_serve.models.control_wire import (
    Mailbox,
    PictureMessage,
    PromptMessage,
    StepMessage,
    picture_message,
    prompt_message,
    step_message,
)
from lego_serve.models.controls import ControlForm, ControlLane, ControlPicture, Residuals
from lego_serve.serving.denoise import NodeLost

log = logging.getLogger("lego_serve.nodes")
RETRY_PAUSE_S = 0.2
SENT = 4096  # keys remembered as sent
ROUNDS = 5  # a step is sent again for what is missing so many times


class ControlNode(Protocol):
    """The deployment of a ControlNet."""

    async def run(self, call: Call) -> Answer:
        """Make a call.  Raises NodeLost."""
        ...

    def stream(self, call: Call) -> AsyncIterator[Message]:
        """Make a call that tells of each residual.  Raises NodeLost."""
        ...


@dataclass(frozen=True, slots=True)
class _Prompt(Prepared):
    """A prompt, with what is sent of it."""

    message: PromptMessage | None = None


@dataclass(frozen=True, slots=True)
class _Picture(ControlPicture):
    """A picture, with what is sent of it."""

    message: PictureMessage | None = None


class RemoteControl:
    """The source of a ControlNet's residuals.  Made on the event loop that its calls are to run on."""

    def __init__(
        self, node: ControlNode, form: ControlForm, dtype: torch.dtype, timeout_s: float, *, per_block: bool = False
    ) -> None:
        self.form = form
        self._node, self._dtype, self._timeout_s, self._per_block = node, dtype, timeout_s, per_block
        self._loop = asyncio.get_running_loop()
        self._sent: OrderedDict[str, None] = OrderedDict()  # used on the loop alone

    def prepare(self, cond: Conditioning, mode: int | None = None) -> Prepared:
        """The conditioning as it is, with its message."""
        message = prompt_message(cond, mode)
        return _Prompt(cond.tokens, cond.pooled, message.key, message)

    def picture(self, latents: torch.Tensor, key: str = "") -> ControlPicture:
        """The latents as they are, with their message."""
        message = picture_message(latents, key)
        return _Picture(latents, message.key, message)

    def start(self, lanes: Sequence[ControlLane]) -> Residuals:
        """Begin a step; its residuals come by themselves."""
        content: dict[str, PictureMessage | PromptMessage] = {}
        for lane in lanes:
            for part in (lane.picture, lane.cond, lane.negative):
                if isinstance(part, _Prompt | _Picture) and part.message is not None:
                    content[part.key] = part.message
        mailbox = Mailbox(self.form.residuals, self._dtype, self._timeout_s + 1)
        asyncio.run_coroutine_threadsafe(self._ask(step_message(lanes), content, mailbox), self._loop)
        return mailbox

    async def _ask(
        self, step: StepMessage, content: dict[str, PictureMessage | PromptMessage], mailbox: Mailbox
    ) -> None:
        """Make the call until it is answered; whatever ends it reaches the mailbox."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._until_answered(step, content, mailbox)
        except TimeoutError:
            late = f"ControlNet {self.form.name} did not answer within {self._timeout_s:g} s."
            mailbox.fail(NodeError(late, code="controlnet_late"))
        except LegoError as error:
            mailbox.fail(error)
        except Exception as error:
            log.exception("a call of ControlNet %s failed", self.form.name)
            mailbox.fail(error)

    async def _until_answered(
        self, step: StepMessage, content: dict[str, PictureMessage | PromptMessage], mailbox: Mailbox
    ) -> None:
        send = [message for key, message in content.items() if key not in self._sent]
        rounds = 0
        while rounds < ROUNDS:
            try:
                call = Call("control_step", {"step": step, "content": tuple(send)})
                missing = await self._once(call, content, mailbox)
            except NodeLost:
                self._sent.clear()  # whoever answers next may know nothing
                send = list(content.values())
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            self._remember(content)
            if not missing:
                return
            send = [content[key] for key in missing]
            rounds += 1
        raise NodeError(f"ControlNet {self.form.name} forgets what it is sent.", code="controlnet_failed")

    async def _once(self, call: Call, keys: Collection[str], mailbox: Mailbox) -> Sequence[str]:
        """One call; answers the keys of what the replica lacks.  Raises NodeLost, or what the ControlNet raised."""
        if not self._per_block:
            return _taken(await self._node.run(call), mailbox)
        async with contextlib.aclosing(self._node.stream(call)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if isinstance(message, Residual):
                    self._remember(keys)  # before the next step begins, which may be before this one's answer
                    mailbox.put(message.index, message.value)
                elif isinstance(message, Answer):
                    return _taken(message, mailbox)
        raise NodeLost

    def _remember(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._sent[key] = None
            self._sent.move_to_end(key)
        while len(self._sent) > SENT:
            self._sent.popitem(last=False)


def _taken(answer: Answer, mailbox: Mailbox) -> Sequence[str]:
    if answer.error is not None:
        raise answer.error
    value: Any = answer.value
    for index, residual in enumerate(value.get("residuals", ())):
        mailbox.put(index, residual)
    missing: Sequence[str] = value.get("missing", ())
    return missing
