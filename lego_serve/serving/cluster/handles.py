"""How calls reach deployments: Ray Serve handles behind the coordinator's NodeHandle.

Values go through Ray's object store where they are large (Ray moves results above 100 KB there and
maps arrays from shared memory without a copy); small ones ride in the message.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from lego_serve.core.jobs.messages import CallAccepted, Message, NodeCall, NodeResult, ReplicaDraining
from lego_serve.errors import NodeError
from lego_serve.serving.cluster.routing_state import leave, outstanding
from lego_serve.serving.errors import NodeLost


class RayNode:
    """One Ray Serve deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._ready = False

    @property
    def is_ready(self) -> bool:
        """Whether a replica has answered a ``probe``."""
        return self._ready

    async def probe(self) -> None:
        """Wait until a replica answers."""
        await self._handle.check_health.remote()
        self._ready = True

    async def run(self, call: NodeCall) -> NodeResult:
        """Make a call; cancelling the await cancels it in the replica too."""
        response = self._handle.run.remote(call)
        try:
            answer: NodeResult = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayActorError, DeploymentUnavailableError):
            raise NodeLost from None
        except RayTaskError as error:
            raise NodeError(f"A model node failed: {type(error.cause).__name__}.") from error
        self._ready = True
        return answer

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """Make a call that says how it gets on; closing the iterator cancels it in the replica too."""
        call = call if call.key else replace(call, key=secrets.token_hex(8))
        response = self._streaming.stream.remote(call)
        ended = False
        try:
            replica = ""
            async for message in response:
                if isinstance(message, CallAccepted):
                    replica = message.replica
                elif isinstance(message, ReplicaDraining):
                    leave(replica)
                yield message
            ended = True
        except (RayActorError, DeploymentUnavailableError):
            ended = True
            raise NodeLost from None
        except RayTaskError as error:
            ended = True
            raise NodeError(f"A model node failed: {type(error.cause).__name__}.") from error
        finally:
            outstanding.end(call.key)
            if not ended:
                response.cancel()

    async def control(self, order: str, name: str) -> list[tuple[str, int | None]]:
        """Say something about a replica, a call or an image to every replica; one that has died says nothing.

        Raises NodeLost where one that may live, or nobody, answers.
        """
        return await self._said_by_all("control", order, name)

    async def resident(self) -> list[tuple[str, tuple[str, ...]]]:
        """The adapters each replica has at hand, by their hashes.  Raises NodeLost."""
        try:
            return await self._said_by_all("resident")
        except NodeError:
            raise NodeLost from None

    async def _said_by_all(self, method: str, *arguments: object) -> list[Any]:
        """What the replicas that have not died answer.  Raises NodeLost, or NodeError where one failed.

        Serve keeps asking the dead until its controller has noticed, which takes the longer the more have died; of
        those Ray itself knows already.
        """
        try:
            said = await self._handle.broadcast(method, *arguments).results_async(return_exceptions=True)
        except (RayActorError, RayServeException) as error:
            raise NodeLost(type(error).__name__) from error
        answers = [each for each in said if not isinstance(each, ActorDiedError)]
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


class LazyNode:
    """A deployment that may not be there yet, for a node that calls another one."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._node: RayNode | None = None

    async def run(self, call: NodeCall) -> NodeResult:
        """Make a call.  Raises NodeLost, also while the deployment is not there."""
        return await (await self._found()).run(call)

    async def stream(self, call: NodeCall) -> AsyncIterator[Message]:
        """The same, answered with messages."""
        async for message in (await self._found()).stream(call):
            yield message

    async def _found(self) -> RayNode:
        if self._node is None:
            try:
                self._node = RayNode(await asyncio.to_thread(serve.get_app_handle, self._app))
            except RayServeException:
                raise NodeLost from None
        return self._node
