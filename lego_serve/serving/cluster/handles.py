"""How calls reach deployments: Ray Serve handles behind the coordinator's NodeHandle.

Small values travel in the message; ``references`` keeps large arrays in Ray's object store.  Ray itself moves any
argument or result above 100 KB there for the one transfer, and maps its arrays from shared memory without a copy.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from lego_serve.core.jobs.messages import (
    CallAccepted,
    LaneProgress,
    Message,
    NodeCall,
    NodeResult,
    ReplicaDraining,
)
from lego_serve.core.nodes.requests import CallsInHand, ReplicaCommand, ReportCalls
from lego_serve.errors import NodeError
from lego_serve.serving.cluster.ray_internals import NO_RAY, KeyValueStore, answers_as_they_come
from lego_serve.serving.cluster.replica_watch import ReplicaWatch
from lego_serve.serving.cluster.routing_state import choice, leave, note_hung, replicas_of
from lego_serve.serving.errors import NodeHung, NodeLost
from lego_serve.serving.suspects import StoredWitness

ReplyT = TypeVar("ReplyT")
COMMAND_TIMEOUT_S = 8.0  # for all replicas together: whoever gives a command gives it again, or says that it failed


class RayNode:
    """One Ray Serve deployment, or the node of that name on the shared workers' one."""

    def __init__(self, handle: Any, hosted: str = "") -> None:
        self._handle, self._hosted = handle, hosted
        self._streaming = handle.options(stream=True)
        self._ready = False
        app = handle.app_name
        self._watch = ReplicaWatch(self._calls_in_hand, lambda: replicas_of(app), note_hung)

    @property
    def is_ready(self) -> bool:
        """Whether a replica has answered a ``probe``."""
        return self._ready

    async def probe(self) -> None:
        """Wait until a replica answers."""
        await self._handle.check_health.remote()
        self._ready = True

    async def run(self, call: NodeCall[ReplyT]) -> NodeResult[ReplyT]:
        """Make a call; cancelling the await cancels it in the replica too.  Raises NodeLost, NodeHung and NodeError."""
        call = self._addressed(call)
        response = self._handle.run.remote(call)
        try:
            with self._watch.over(call.key, call.hangs) as watched:
                answer: NodeResult[ReplyT] = await watched.wait_for(response)
        except (asyncio.CancelledError, NodeHung):
            response.cancel()
            raise
        except (RayActorError, DeploymentUnavailableError):
            raise NodeLost from None
        except RayTaskError as error:
            raise NodeError(f"A model node failed: {type(error.cause).__name__}.") from error
        self._ready = True
        return answer

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Make a call and yield its messages; closing the iterator cancels it in the replica too.

        Raises NodeLost, NodeHung and NodeError.
        """
        call = self._addressed(call)
        response = self._streaming.stream.remote(call)
        ended, starting = False, dict[int, LaneProgress]()
        try:
            replica = ""
            with self._watch.over(call.key, call.hangs) as watched:
                messages = aiter(response)
                while (message := await watched.wait_for(_next(messages))) is not None:
                    if isinstance(message, CallAccepted):
                        replica = message.replica
                    elif isinstance(message, ReplicaDraining):
                        leave(replica)
                    elif isinstance(message, LaneProgress) and call.suspect_steps:
                        starting[message.lane] = message
                    watched.heard(replica)
                    yield message
            ended = True
        except (RayActorError, DeploymentUnavailableError):
            ended = True
            for word in await _last_words(call, starting):
                yield word
            raise NodeLost from None
        except RayTaskError as error:
            ended = True
            raise NodeError(f"A model node failed: {type(error.cause).__name__}.") from error
        finally:
            choice.outstanding.end(call.key)
            if not ended:
                response.cancel()

    async def control(self, command: ReplicaCommand[ReplyT]) -> list[tuple[str, ReplyT | None]]:
        """Send a command to every replica; dead ones are skipped.

        Serve keeps asking the dead until its controller has noticed, which takes the longer the more have died; of
        those Ray itself knows already.  Raises NodeLost where one that may live, or nobody, answers, and NodeError
        where one failed.
        """
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                replies = await self._broadcast(command).results_async(return_exceptions=True)
        except TimeoutError:
            raise NodeLost(f"a replica has not answered for {COMMAND_TIMEOUT_S:g} s") from None
        except (RayActorError, RayServeException) as error:
            raise NodeLost(type(error).__name__) from error
        answers = [each for each in replies if not isinstance(each, ActorDiedError)]
        for each in answers:
            if isinstance(each, RayTaskError):
                raise NodeError(f"A model node failed: {type(each.cause).__name__}.") from each
            if isinstance(each, RayError | RayServeException | asyncio.CancelledError):  # the last: it is being stopped
                raise NodeLost(type(each).__name__) from each
            if isinstance(each, BaseException):
                raise each
        if not answers:
            raise NodeLost("nobody answers")
        return answers

    @property
    def hosted(self) -> str:
        """Its name on the shared workers; empty for a deployment of its own."""
        return self._hosted

    def _addressed(self, call: NodeCall[ReplyT]) -> NodeCall[ReplyT]:
        """Return a call with a key, under which its replica has it in hand, and with the node it is for."""
        return replace(call, key=call.key or secrets.token_hex(8), node=self._hosted)

    def _broadcast(self, command: ReplicaCommand[Any]) -> Any:
        return self._handle.broadcast("control", command, *([self._hosted] if self._hosted else []))

    async def _calls_in_hand(self) -> AsyncIterator[tuple[str, CallsInHand]]:
        """Yield what replicas have in hand as they answer; those that die meanwhile do not.  Raises NodeLost."""
        try:
            answers = answers_as_they_come(self._broadcast(ReportCalls()))
            async with contextlib.aclosing(answers):  # type: ignore[type-var]
                async for answer in answers:
                    if not isinstance(answer, BaseException):
                        yield answer
        except (RayActorError, RayServeException) as error:
            raise NodeLost(type(error).__name__) from error


@cache
def clusters_witness() -> StoredWitness:
    """Return who remembers which suspects run in this cluster, for replicas and for those whose calls they lose."""
    return StoredWitness(KeyValueStore(), NO_RAY)


async def _last_words(call: NodeCall[Any], heard: Mapping[int, LaneProgress]) -> list[LaneProgress]:
    """Return what a lost replica would have said of a suspect's lanes, of each of which the last word came or did not.

    Nothing of a call that was none, nor where nobody can be asked: then what was heard is all there is.
    """
    if not call.suspect_steps:
        return []
    words = await asyncio.to_thread(clusters_witness().last_words, call.key)
    if words is None:
        return []
    through = [replace(each, is_starting=False, checkpoint=None) for each in heard.values() if each.is_starting]
    return [*through, *words]


async def _next(messages: AsyncIterator[Message]) -> Message | None:
    """Return the next message; None after the last."""
    return await anext(messages, None)


class LazyNode:
    """A deployment that may not be there yet: for a node that calls another one, and for gateways that wait."""

    def __init__(self, app: str, hosted: str = "") -> None:
        self._app, self._hosted = app, hosted
        self._node: RayNode | None = None

    @property
    def hosted(self) -> str:
        """Its name on the shared workers; empty for a deployment of its own."""
        return self._hosted

    @property
    def is_ready(self) -> bool:
        """Whether it is there and a replica has answered."""
        return self._node is not None and self._node.is_ready

    async def probe(self) -> None:
        """Wait until a replica answers.  Raises NodeLost, also while the deployment is not there."""
        node = await self._found()
        try:
            await node.probe()
        except (RayError, RayServeException) as error:
            raise NodeLost(type(error).__name__) from error

    async def run(self, call: NodeCall[ReplyT]) -> NodeResult[ReplyT]:
        """Make a call.  Raises NodeLost, also while the deployment is not there."""
        return await (await self._found()).run(call)

    async def stream(self, call: NodeCall[Any]) -> AsyncIterator[Message]:
        """Make a streaming call.  Raises NodeLost."""
        async for message in (await self._found()).stream(call):
            yield message

    async def control(self, command: ReplicaCommand[ReplyT]) -> list[tuple[str, ReplyT | None]]:
        """Send a command to every replica, as ``RayNode.control`` does.  Raises NodeLost and NodeError."""
        return await (await self._found()).control(command)

    async def _found(self) -> RayNode:
        if self._node is None:
            if not ray.is_initialized():
                raise NodeLost("this process has not joined Ray yet")
            try:
                self._node = RayNode(await asyncio.to_thread(serve.get_app_handle, self._app), self._hosted)
            except RayServeException:
                raise NodeLost from None
        return self._node
