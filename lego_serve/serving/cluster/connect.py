"""Joins a running Ray as a client of deployed nodes; imports no torch, for gateway processes."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TypeVar

import ray
from ray import serve

from lego_serve.serving.cluster.handles import LazyNode, RayNode
from lego_serve.serving.cluster.ray_internals import NO_RAY, log_like_this_process
from lego_serve.serving.cluster.routing_state import name_models
from lego_serve.serving.errors import NodeLost
from lego_serve.serving.nodes.options import NodePlace

NAMESPACE = "lego_serve"
RETRY_PAUSE_S = 1.0
REMIND_S = 30.0  # between two lines that say what is waited for
LOOK_PERIOD_S = 5.0
LOST_AFTER_S = 30.0  # a head that comes back sooner with its state has cost nothing: calls go on without it
Apps = Mapping[tuple[str, str], NodePlace]
Result = TypeVar("Result")
log = logging.getLogger("lego_serve.cluster")


def connect(address: str, apps: Apps) -> dict[tuple[str, str], RayNode]:
    """Handles of deployed nodes by (model, component)."""
    _join(address, apps)
    return {key: RayNode(serve.get_app_handle(place.app), place.hosted) for key, place in apps.items()}


def _join(address: str, apps: Apps) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every router it starts
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    log_like_this_process()
    name_models({place.app: model for (model, _), place in apps.items() if not place.hosted})


def expected(apps: Apps) -> dict[tuple[str, str], LazyNode]:
    """Handles of nodes that may not be deployed yet, on a Ray that may not be there yet."""
    return {key: LazyNode(place.app, place.hosted) for key, place in apps.items()}


async def join(where: Callable[[], str], apps: Apps, nodes: Collection[LazyNode]) -> None:
    """Join Ray as soon as it is there, and wait until every node answers.

    ``where`` answers Ray's address, or raises one of NO_RAY while nobody knows it.
    """
    reminder = Reminder("Ray")
    log.info("joining Ray as soon as it answers")
    while True:
        try:
            address = where()
            await in_thread(partial(_join, address, apps))
        except NO_RAY as error:
            reminder.remind(f"{type(error).__name__}")
            await asyncio.sleep(RETRY_PAUSE_S)
        else:
            break
    log.info("joined Ray at %s", address)
    await asyncio.gather(*(_answers(node, place.app) for node, place in zip(nodes, apps.values(), strict=True)))


async def _answers(node: LazyNode, app: str) -> None:
    reminder = Reminder(f"application {app}")
    while True:
        try:
            return await node.probe()
        except NodeLost:
            reminder.remind("it is not there, or has no replica")
            await asyncio.sleep(RETRY_PAUSE_S)


class Reminder:
    """Says now and then what is waited for."""

    def __init__(self, what: str) -> None:
        self._what, self._told_s = what, -REMIND_S

    def remind(self, why: str) -> None:
        """Say it, unless that was done a short while ago."""
        if time.monotonic() - self._told_s >= REMIND_S:
            self._told_s = time.monotonic()
            log.info("waiting for %s: %s", self._what, why)


class Reachability:
    """Whether Ray's head has answered of late and has this process's node among those that live."""

    def __init__(self, look: "Callable[[], bool] | None" = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._look, self._clock = look or is_node_alive, clock
        self._seen_s = clock()

    @property
    def is_reachable(self) -> bool:
        """Whether the last good answer is recent enough."""
        return self._clock() - self._seen_s < LOST_AFTER_S

    async def watch(self, pause_s: float = LOOK_PERIOD_S) -> None:
        """Look until cancelled; a look that hangs holds up the next."""
        while True:
            was_reachable = self.is_reachable
            try:
                is_alive = await in_thread(self._look)
            except NO_RAY:
                is_alive = False
            if is_alive:
                self._seen_s = self._clock()
                if not was_reachable:
                    log.info("Ray can be reached again")
            await asyncio.sleep(pause_s)


def is_node_alive() -> bool:
    """Whether this process's node counts as alive.  Raises one of ``NO_RAY`` where nobody answers."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())


async def in_thread(work: Callable[[], Result]) -> Result:
    """Await work in a thread of its own, which keeps no process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def end(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  (raised where it is awaited)
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end, result, failure)

    threading.Thread(target=run, daemon=True, name="ray-client").start()
    return await future
