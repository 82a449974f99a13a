"""Streamed calls: the denoising ones, which go on elsewhere when their replica dies, drains or leaves, and suspects.

What to do is decided by ``core/jobs/recovery``; here are only the streams.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from lego_serve.core.jobs.messages import CallAccepted, LaneProgress, Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.core.jobs.progress import PREPARING
from lego_serve.core.jobs.recovery import GiveUp, PoisonRequest, Recovery, RecoveryAction, Retry
from lego_serve.core.nodes.messages import DenoiseOutput
from lego_serve.core.scheduling.retry import DENOISE_LOST, DENOISE_MOVED
from lego_serve.errors import NodeError, PoisonError
from lego_serve.serving.coordinator.retries import Retries
from lego_serve.serving.errors import NodeHung, NodeLost

LAST_WORDS_S = 1.0  # a dead replica's stream breaks within this time of its leaving; a drained one's does not
ReplyT = TypeVar("ReplyT")
OnLaneProgress = Callable[[LaneProgress], None]


class StreamingNode(Protocol):
    """A deployment that answers a call with messages."""

    def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
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

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
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
        on_retry: Callable[[], None] = lambda: None,
    ) -> NodeResult[DenoiseOutput]:
        """Make a call (anew with each attempt, for the time left) until it is answered.

        ``recovery``: of this task, the same each time it runs, so that it goes on from its checkpoints.
        ``on_retry`` is called as the call is made again.

        Raises PoisonError for a call that kills replicas, NodeError when too many died around it.
        """
        started, again = time.monotonic(), recovery.begin()
        lost_s, moved_s = self._retries.pauses(DENOISE_LOST), self._retries.pauses(DENOISE_MOVED)
        while True:
            pause_s = 0.0
            try:
                answer = await self._attempt(node, again_as(make(), again), recovery, on_progress)
            except NodeHung:  # it has waited long enough
                decision = recovery.after_hang()
            except NodeLost:
                decision, pause_s = recovery.after_loss(), next(lost_s, 0.0)
            else:
                if answer is not None:
                    return answer if answer.lost_refs else _with_all_attempts(answer, recovery, started)
                decision, pause_s = recovery.after_move(), next(moved_s, 0.0)
            again = retry_of(decision)
            await self._retries.turn(pause_s)
            on_retry()

    async def _attempt(
        self, node: StreamingNode, call: NodeCall[DenoiseOutput], recovery: Recovery, on_progress: OnLaneProgress
    ) -> NodeResult[DenoiseOutput] | None:
        """One replica's answer; None when it is to be left.  Raises NodeLost."""
        attempt = _Attempt(recovery)
        attempt.task = asyncio.ensure_future(consume(node, call, recovery, on_progress))
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


def again_as(call: NodeCall[ReplyT], again: Retry) -> NodeCall[ReplyT]:
    """Return a call as it is made again."""
    return replace(
        call,
        checkpoints=again.checkpoints,
        suspect_steps=again.suspect_steps,
        avoid=again.avoid | call.avoid,
        hangs=again.hangs,
    )


def retry_of(decision: RecoveryAction) -> Retry:
    """Return how a call is made again.  Raises PoisonError, or NodeError where it was lost too often."""
    match decision:
        case PoisonRequest(step=step):
            when = "while it was made ready" if step == PREPARING else f"at step {step}"
            raise PoisonError(f"This request made the model server fail {when} each time it ran alone.")
        case GiveUp(attempts=attempts):
            raise NodeError(f"The request lost its replica {attempts} times; it was given up.")
        case Retry():
            return decision


async def consume(
    node: StreamingNode, call: NodeCall[ReplyT], recovery: Recovery, on_progress: OnLaneProgress = lambda progress: None
) -> NodeResult[ReplyT] | None:
    """Make a call that is streamed; return its answer, or None where its replica is to be left.  Raises NodeLost."""
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
