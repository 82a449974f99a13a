"""Denoising calls: streamed from a replica, and gone on with elsewhere when it dies, drains or leaves.

What to do is decided by ``core/jobs/recovery``; here are only the streams.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from typing import Protocol

from lego_serve.core.jobs.messages import CallAccepted, LaneProgress, Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.core.jobs.recovery import GiveUp, PoisonRequest, Recovery, Retry
from lego_serve.core.nodes.messages import DenoiseOutput
from lego_serve.core.scheduling.retry import DENOISE_LOST_PAUSE_S, DENOISE_MOVED_PAUSE_S
from lego_serve.errors import NodeError, RequestError
from lego_serve.serving.errors import NodeHung, NodeLost

LAST_WORDS_S = 1.0  # a dead replica's stream breaks within this time of its leaving; a drained one's does not
OnLaneProgress = Callable[[LaneProgress], None]


class StreamingNode(Protocol):
    """A deployment that answers a call with messages."""

    def stream(self, call: NodeCall[DenoiseOutput]) -> AsyncIterator[Message]:
        """Make a call.  Raises NodeLost; closing the iterator cancels the call."""
        ...


class _Attempt:
    """One stream from one replica."""

    def __init__(self, recovery: Recovery) -> None:
        self.recovery = recovery
        self.task: asyncio.Task[NodeResult[DenoiseOutput] | None] | None = None
        self.is_leaving = False

    def leave(self) -> None:
        """Stop listening: the replica is no longer to be used, and is still alive."""
        if self.task is not None and not self.task.done():
            self.is_leaving = True
            self.task.cancel()


class DenoiseStreams:
    """The denoising calls of one coordinator."""

    def __init__(self) -> None:
        self._attempts: set[_Attempt] = set()

    def departed(self, replicas: Collection[str]) -> None:
        """Replicas are no longer to be used: what streams from them goes on elsewhere."""
        loop = asyncio.get_running_loop()
        for attempt in self._attempts:
            if attempt.recovery.replica in replicas:
                loop.call_later(LAST_WORDS_S, attempt.leave)

    def leave(self, recoveries: Collection[Recovery]) -> None:
        """Leave the replicas that have these tasks: they go on elsewhere at once."""
        for attempt in list(self._attempts):
            if any(attempt.recovery is each for each in recoveries):
                attempt.leave()

    async def run(
        self,
        node: StreamingNode,
        make: Callable[[], NodeCall[DenoiseOutput]],
        on_progress: OnLaneProgress,
        recovery: Recovery,
    ) -> NodeResult[DenoiseOutput]:
        """Make a call (anew with each attempt, for the time left) until it is answered.

        ``recovery``: of this task, the same each time it runs, so that it goes on from its checkpoints.

        Raises RequestError for a call that kills replicas, NodeError when too many died around it.
        """
        started, again = time.monotonic(), recovery.begin()
        while True:
            made = make()
            call = replace(
                made,
                checkpoints=again.checkpoints,
                suspect_steps=again.suspect_steps,
                avoid=again.avoid | made.avoid,
                hangs=again.hangs,
            )
            try:
                answer = await self._attempt(node, call, recovery, on_progress)
            except NodeHung:
                decision = recovery.after_hang()
            except NodeLost:
                decision = recovery.after_loss()
                await asyncio.sleep(DENOISE_LOST_PAUSE_S)
            else:
                if answer is not None:
                    return answer if answer.lost_refs else _with_all_attempts(answer, recovery, started)
                decision = recovery.after_move()
                await asyncio.sleep(DENOISE_MOVED_PAUSE_S)
            match decision:
                case PoisonRequest(step=step):
                    when = "while it was made ready" if step == PREPARING else f"at step {step}"
                    message = f"This request made the model server fail {when} each time it ran alone."
                    raise RequestError(message, code="poison_request")
                case GiveUp(attempts=attempts):
                    raise NodeError(f"The request lost its replica {attempts} times; it was given up.")
                case Retry():
                    again = decision

    async def _attempt(
        self, node: StreamingNode, call: NodeCall[DenoiseOutput], recovery: Recovery, on_progress: OnLaneProgress
    ) -> NodeResult[DenoiseOutput] | None:
        """One replica's answer; None when it is to be left.  Raises NodeLost."""
        attempt = _Attempt(recovery)
        attempt.task = asyncio.ensure_future(_consume(node, call, recovery, on_progress))
        self._attempts.add(attempt)
        try:
            return await attempt.task
        except asyncio.CancelledError:
            if attempt.is_leaving:
                return None
            attempt.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, NodeLost):
                await attempt.task
            raise
        finally:
            self._attempts.discard(attempt)


def _with_all_attempts(
    answer: NodeResult[DenoiseOutput], recovery: Recovery, started: float
) -> NodeResult[DenoiseOutput]:
    """Return the last attempt's result with statistics of all of them, and tell the recovery that it has ended."""
    recovery.note_result()
    stats = replace(answer.stats, attempts=recovery.attempts + 1, steps_redone=recovery.steps_redone)
    if recovery.attempts:  # the replica knows of the last attempt alone
        stats = replace(stats, run_s=time.monotonic() - started - stats.queue_s)
    return replace(answer, stats=stats)


async def _consume(
    node: StreamingNode, call: NodeCall[DenoiseOutput], recovery: Recovery, on_progress: OnLaneProgress
) -> NodeResult[DenoiseOutput] | None:
    async with contextlib.aclosing(node.stream(call)) as messages:  # type: ignore[type-var]
        async for message in messages:
            match message:
                case CallAccepted(replica=replica):
                    recovery.note_accepted(replica)
                case LaneProgress():
                    recovery.note_progress(
                        message.lane, message.step, message.checkpoint, is_starting=message.is_starting
                    )
                    on_progress(message)
                case ReplicaDraining():
                    return None
                case NodeResult():
                    return message
    raise NodeLost
