"""One process that starts or joins Ray and has it run the nodes, until it is told to stop or Ray is lost.

Whoever holds Ray's connection ends with it: so that is not the process that starts another Ray, but a child of it.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lego_serve import config
from lego_serve.errors import LegoError
from lego_serve.planning.node_plans import node_plans
from lego_serve.process import json_logging
from lego_serve.process.fork_server import ForkServer
from lego_serve.process.ray_token import require_token
from lego_serve.process.reporting_child import Parent
from lego_serve.process.signals import Stopped, StopSignal, run_off_main_thread
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.process.tree import children, command_of, is_alive
from lego_serve.served_workflows import configured
from lego_serve.serving.nodes.options import NodePlan

PRELOADED = "lego_serve.serving.cluster.preloaded"
VITAL = ("gcs_server", "raylet")  # the processes without which a Ray of our own is of no use
GCS = VITAL[0]
FIRST = "ray"  # the folder of the first Ray of a server
LOOK_S = 0.25
NO_ANSWER = "ray"  # what is lost where Ray does not answer
log = logging.getLogger("lego_serve.cluster")


def run_cluster(config_path: Path, folder: Path, ray_folder: Path, parent: Parent, stopping: StopSignal) -> None:
    """Start Ray and the nodes, and keep them until a signal; tell of each step, and of what is lost.

    ``folder`` is the server's, ``ray_folder`` this Ray's own.  Raises LegoError and Stopped.
    """
    settings, workflows = configured(config_path)
    with contextlib.ExitStack() as undo:
        plans, socket = node_plans(settings, workflows, folder), ray_folder.with_suffix(".sock")
        is_first = ray_folder.name == FIRST
        # While Ray starts, unless it may have been that which was too much for this machine: a raylet waits for 15 s.
        launcher = _start_fork_server(settings, socket, undo) if is_first else None
        parent.tell(report="starting Ray")
        address = _start_ray(settings, plans, ray_folder, undo)
        stopping.check()
        launcher = launcher if is_first else _start_fork_server(settings, socket, undo)
        _deploy(plans, launcher, parent)
        parent.tell(address=address)
        _wait_for_nodes(plans, parent, stopping, is_own=settings.server.ray_address is None)
        parent.tell(up=True)
        lost = asyncio.run(_watch(stopping, _vital() if settings.server.ray_address is None else {}))
        if lost:
            parent.tell(lost=lost)
            _wait_to_be_ended(stopping)


def _start_fork_server(settings: config.Settings, path: Path, undo: contextlib.ExitStack) -> str | None:
    """Have libraries imported while Ray starts, once for all replicas; answers what starts a replica's process.

    None where replicas may be on other machines, or all are on GPUs, whose driver does not work in forks.
    """
    if settings.server.ray_address is not None or all(model.device != "cpu" for model in settings.models.values()):
        return None
    os.environ.update(THREAD_ENVIRONMENT)
    fork_server = ForkServer(path, [PRELOADED])
    undo.callback(fork_server.stop)
    return fork_server.launcher


def _start_ray(
    settings: config.Settings, plans: Sequence[NodePlan], ray_folder: Path, undo: contextlib.ExitStack
) -> str:
    """Start or join Ray; answers its address.  ``undo`` takes it down again, with the nodes that are on it by then."""
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # read at import; else a late call starts another Ray at the stop
    from lego_serve.serving.cluster.deploy import start_ray, stop

    if settings.server.ray_address is not None:
        require_token(os.environ, Path.home())
    json_logging.install()  # on stderr: stdout is for the server's own lines
    undo.callback(stop, [plan.app for plan in plans], owned=settings.server.ray_address is None)
    return start_ray(settings.server.ray_address, config.cores(), ray_folder)


def _deploy(plans: Sequence[NodePlan], launcher: str | None, parent: Parent) -> None:
    from lego_serve.serving.cluster.deploy import deploy

    for plan in plans:
        parent.tell(report=f"loading {plan.app}")
    deploy(plans, launcher)


def _wait_for_nodes(plans: Sequence[NodePlan], parent: Parent, stopping: StopSignal, *, is_own: bool) -> None:
    """Wait for all of them; no autoscaler adds machines to a Ray of our own."""
    from lego_serve.serving.cluster.deploy import ROOMY_PATIENCE_S, Patience, wait_until_up

    patience = Patience(growing_s=ROOMY_PATIENCE_S) if is_own else Patience()
    wait_until_up(plans, lambda plan: parent.tell(report=f"loaded {plan.app}"), stopping.check, patience)


def _vital() -> dict[int, str]:
    """The processes of the Ray that this one has started, by id."""
    return {pid: name for pid in children(os.getpid()) if (name := command_of(pid)) in VITAL}


async def _watch(stopping: StopSignal, vital: dict[int, str]) -> str:
    """Wait until Ray is lost; return the name of what is, empty for a stop.

    One that was joined may be silent: its machines go on, and a head that comes back with its state has cost nothing.
    """
    from lego_serve.serving.cluster.connect import Reachability

    ray = Reachability()
    looking = asyncio.ensure_future(ray.watch())
    try:
        while not stopping.is_asked:
            ended = [name for pid, name in vital.items() if not is_alive(pid)]
            if ended or (vital and not ray.is_reachable):
                return ended[0] if ended else NO_ANSWER
            await asyncio.sleep(LOOK_S)
    finally:
        looking.cancel()
    return ""


def _wait_to_be_ended(stopping: StopSignal) -> None:
    """Keep what is left of Ray for as long as requests in flight may use it; a lost Ray cannot be stopped in order."""
    asyncio.run(_until_stopped(stopping))
    os._exit(0)


async def _until_stopped(stopping: StopSignal) -> None:
    while not stopping.is_asked:
        await asyncio.sleep(LOOK_S)


def main(words: Sequence[str]) -> int:
    """Run until told to stop; answers the exit status."""
    stopping = StopSignal()
    stopping.install()
    parent = Parent(int(words[3]), int(words[4]))
    places = Path(words[0]), Path(words[1]), Path(words[2])
    try:
        run_off_main_thread(lambda: run_cluster(*places, parent, stopping), stopping)
    except Stopped as stopped:
        return int(stopped.code or 0)
    except LegoError as error:
        parent.tell(error=type(error).__name__, message=error.message, code=error.code)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
