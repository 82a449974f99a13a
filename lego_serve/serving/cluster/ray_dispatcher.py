"""The dispatchers of shared workers as Ray's actors: each is started by whichever gateway asks first.

An actor is detached, so that it stays when that gateway goes, and Ray starts it anew where its process or machine dies.
What it knew is gone then; gateways tell it all again.  Whoever takes a server's nodes down ends its dispatchers too.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayTaskError
from ray.util import list_named_actors

from lego_serve.core.placement.cells import cell_count
from lego_serve.core.placement.dispatch_messages import DispatcherAnswer, Expectation, GatewayReport, JobOffer
from lego_serve.serving.cluster.connect import NAMESPACE, in_thread
from lego_serve.serving.cluster.ray_internals import NO_RAY
from lego_serve.serving.coordinator.dispatcher import CellDispatcher
from lego_serve.serving.errors import DispatcherGone
from lego_serve.serving.nodes.options import NodePlace

SUFFIX = ".dispatcher."
log = logging.getLogger("lego_serve.cluster")


class RayDispatcher:
    """The dispatcher of one cell of the workers of an application."""

    def __init__(self, app: str, cell: int = 0) -> None:
        self._app, self._name = app, f"{app}{SUFFIX}{cell}"
        self._actor: Any = None
        self._finding: asyncio.Task[Any] | None = None

    async def hear(self, report: GatewayReport) -> DispatcherAnswer:
        """Take a report; return where the gateway's jobs are.  Raises DispatcherGone."""
        answer: DispatcherAnswer = await self._ask("hear", report)
        return answer

    async def offer(self, offer: JobOffer) -> Expectation | None:
        """Say when a newcomer would end, and keep its place if that is in time.  Raises DispatcherGone."""
        expected: Expectation | None = await self._ask("offer", offer)
        return expected

    async def _ask(self, method: str, message: GatewayReport | JobOffer) -> Any:
        try:
            if self._actor is None:
                self._actor = await self._found()
            return await getattr(self._actor, method).remote(message)
        except RayTaskError as error:
            log.exception("the dispatcher %s failed at a message", self._name)
            raise DispatcherGone(str(error.cause)) from error
        except NO_RAY as error:
            if isinstance(error, ActorDiedError):
                self._actor = None  # for good; one that Ray starts anew keeps its handle
            raise DispatcherGone(type(error).__name__) from error

    async def _found(self) -> Any:
        """The actor, looked for once for all who ask meanwhile; whoever gives up does not end that."""
        if self._finding is None or self._finding.done():
            self._finding = asyncio.ensure_future(in_thread(self._start))
        return await asyncio.shield(self._finding)

    def _start(self) -> Any:
        if not ray.is_initialized():
            raise ConnectionError("this process has not joined Ray yet")
        options = {"name": self._name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
        actor = ray.remote(CellDispatcher).options(num_cpus=0, max_restarts=-1, **options)
        return actor.remote((self._app,))


def dispatchers_of(places: Iterable[NodePlace], workers: int) -> list[RayDispatcher]:
    """Return the dispatchers of these nodes' shared workers, of which there are so many at the most."""
    apps = sorted({place.app for place in places if place.hosted})
    return [RayDispatcher(app, cell) for app in apps for cell in range(cell_count(workers))]


def end_dispatchers(apps: Collection[str]) -> None:
    """End the dispatchers of the workers among these applications, such as those that an earlier start left."""
    try:
        for name in list_named_actors():
            app, found, _ = name.rpartition(SUFFIX)
            if found and app in apps:
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    except NO_RAY:  # they have no work without gateways
        log.warning("dispatchers of an earlier start could not be ended", exc_info=True)
