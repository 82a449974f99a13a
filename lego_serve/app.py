"""The composition root: from a configuration file to a running server; the only file that sees everything."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lego_serve import config
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import ConfigError
from lego_serve.gateway.telemetry.export import require_extra
from lego_serve.gateway_process import OWNER
from lego_serve.job_storage import check_job_folder, job_folder, release_jobs
from lego_serve.planning.node_plans import node_plans
from lego_serve.process import json_logging
from lego_serve.process.fork_server import ForkServer
from lego_serve.process.metrics_page import settle
from lego_serve.process.ray_token import require_token
from lego_serve.process.signals import StopSignal, run_off_main_thread
from lego_serve.process.sockets import host_and_port, reserve
from lego_serve.process.supervisor import Supervisor
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.served_workflows import configured
from lego_serve.serving.nodes.options import NodePlan

REMOVALS = 50
METRICS = "metrics"  # the folder of what gateways count
PRELOADED = "lego_serve.serving.cluster.preloaded"
Report = Callable[[str], None]


def serve(config_path: Path, port: int | None, report: Report) -> int:
    """Run a server until it is told to stop; answers the exit status.

    Raises LegoError, or Stopped when it was told to before it served.
    """
    stopping = StopSignal()
    stopping.install()  # before anything is started, so that all that is gets taken down
    settings, workflows = configured(config_path)
    if port is not None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"there is no port {port}; ports go from 0 to 65535")
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})
    if find_spec("torch") is None:
        raise ConfigError("this installation serves no models: run `pip install 'lego_serve[worker]'`")
    if settings.server.traces:
        require_extra()  # here, where it is one line on the terminal
    return run_off_main_thread(lambda: _serve(config_path, settings, workflows, stopping, report), stopping)


def _serve(
    config_path: Path,
    settings: config.Settings,
    workflows: Mapping[str, Workflow],
    stopping: StopSignal,
    report: Report,
) -> int:
    server, started = settings.server, time.monotonic()
    with contextlib.ExitStack() as undo:
        holder = undo.enter_context(reserve(server.host, server.port))
        port = holder.getsockname()[1]
        if server.operations_port is not None:
            undo.enter_context(reserve(server.host, server.operations_port))
        url = _url(server, port)
        folder = undo.enter_context(temporary_folder())
        gateways = shared_folders(folder)
        jobs = job_folder(settings, port, folder)
        if jobs is not None:
            check_job_folder(jobs)
        stopping.check()
        launcher = _start_fork_server(settings, folder / "fork.sock", undo)
        plans = node_plans(settings, workflows, folder)
        address = _start_nodes(settings, plans, folder / "ray", launcher, stopping, report, undo)
        words = [str(config_path), address, str(port), str(gateways), *([] if jobs is None else [str(jobs)])]
        supervisor = Supervisor(
            [sys.executable, "-m", "lego_serve.gateway_process", *words],
            server.gateways,
            partial(forget_gateway, gateways, settings, jobs),
            server.drain_timeout_s,
        )
        undo.callback(supervisor.shut_down)
        supervisor.start()  # gateways get ready while the nodes load
        _wait_for_nodes(plans, stopping, report)
        wait_ready([gateways / f"{pid}.sock" for pid in supervisor.pids], stopping, supervisor.check)
        report(f"ready in {time.monotonic() - started:.1f} s")
        watched = server.port if server.operations_port is None else server.operations_port
        report(f"{url}/v1/images/generations  {_url(server, watched or port)}/metrics")
        supervisor.watch(lambda: stopping.is_asked)
    return 0


def _url(server: config.Server, port: int) -> str:
    return f"http://{host_and_port(server.host, port)}"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for Ray, metrics and the gateways' own sockets; gone afterwards, with whatever was put there."""
    # Paths of sockets must stay under 107 characters: a short one.
    folder = Path(tempfile.mkdtemp(prefix="lego-", dir="/tmp"))
    try:
        yield folder
    finally:
        for _ in range(REMOVALS):  # Ray's last processes may still be writing there
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def shared_folders(folder: Path) -> Path:
    """Make what gateways of one machine share: metrics, and the folder of their sockets, which is returned."""
    metrics, gateways = folder / METRICS, folder / "gateways"
    metrics.mkdir()
    gateways.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    return gateways


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


def _start_nodes(
    settings: config.Settings,
    plans: Sequence[NodePlan],
    ray_folder: Path,
    launcher: str | None,
    stopping: StopSignal,
    report: Report,
    undo: contextlib.ExitStack,
) -> str:
    """Start or join Ray and have it start the nodes; answers Ray's address.  ``undo`` takes them down again."""
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # read at import; else a late call starts another Ray at the stop
    from lego_serve.serving.cluster.deploy import deploy, start_ray, stop

    if settings.server.ray_address is not None:
        require_token(os.environ, Path.home())
    json_logging.install()  # on stderr: stdout is for this server's own lines
    report("starting Ray")
    undo.callback(stop, [plan.app for plan in plans], owned=settings.server.ray_address is None)
    address = start_ray(settings.server.ray_address, config.cores(), ray_folder)
    stopping.check()
    for plan in plans:
        report(f"loading {plan.app}")
    deploy(plans, launcher)
    return address


def _wait_for_nodes(plans: Sequence[NodePlan], stopping: StopSignal, report: Report) -> None:
    from lego_serve.serving.cluster.deploy import wait_until_up

    wait_until_up(plans, lambda plan: report(f"loaded {plan.app}"), stopping.check)


def wait_ready(
    sockets: Sequence[Path],
    stopping: StopSignal,
    check: Callable[[], None],
    timeout_s: float = 60.0,
    route: str = "/health/ready",
) -> None:
    """Wait until every gateway answers on its own socket: from then on one that dies leaves others on the port.

    ``check`` raises when that is not to be waited for any more.
    """
    limit = time.monotonic() + timeout_s
    while not all(_is_ok(socket, route) for socket in sockets):
        stopping.check()
        check()
        if time.monotonic() > limit:
            raise ConfigError(f"the gateways did not get ready within {timeout_s:.0f} s")
        time.sleep(0.1)


def _is_ok(socket: Path, route: str) -> bool:
    import httpx2

    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), timeout=2) as client:
            return client.get(f"http://gateway{route}").status_code == 200
    except httpx2.TransportError:  # it has not got so far yet
        return False


def forget_gateway(gateways: Path, settings: config.Settings, jobs: Path | None, pid: int) -> None:
    """Clear away what a gateway that ended has left, and let others have its durable jobs."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    settle(gateways.parent / METRICS, pid)
    own = gateways / f"{pid}.sock"
    own.unlink(missing_ok=True)
    owner = own.with_suffix(OWNER)
    if jobs is not None and owner.exists():
        release_jobs(settings.jobs, jobs, owner.read_text())
    owner.unlink(missing_ok=True)
