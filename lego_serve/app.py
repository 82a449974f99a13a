"""The composition root: from a configuration file to a running server; the only file that sees everything."""

import contextlib
import logging
import os
import secrets
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
from lego_serve.gateway_process import OWNER, REJOINS
from lego_serve.job_storage import check_job_folder, job_folder, release_jobs
from lego_serve.process import json_logging
from lego_serve.process.metrics_page import settle
from lego_serve.process.signals import StopSignal, run_off_main_thread
from lego_serve.process.sockets import host_and_port, reserve
from lego_serve.process.supervisor import Supervisor
from lego_serve.process.threads import THREAD_ENVIRONMENT
from lego_serve.served_workflows import configured
from lego_serve.supervision.cluster_supervisor import ClusterSupervisor, lets_requests_finish
from lego_serve.supervision.gateway_pulse import GatewayPulse

REMOVALS = 50
METRICS = "metrics"  # the folder of what gateways count
Report = Callable[[str], None]
log = logging.getLogger("lego_serve")


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
    json_logging.install()  # on stderr: stdout is for this server's own lines
    # For all that is started; the first is read at import, and without it a late call starts another Ray at the stop.
    os.environ.update({"RAY_ENABLE_AUTO_CONNECT": "0"} | THREAD_ENVIRONMENT)
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
        cluster = ClusterSupervisor(config_path, folder, report, lambda: [*supervisor.pids, *supervisor.leaving])
        supervisor = Supervisor(
            lambda: _gateway_command(config_path, cluster, port, gateways, jobs),
            server.gateways,
            partial(forget_gateway, gateways, settings, jobs),
            server.drain_timeout_s,
            lambda: _keep_cluster(cluster, supervisor, gateways, stopping),
            undo.enter_context(contextlib.closing(GatewayPulse(gateways))).hung,
        )
        undo.callback(cluster.stop)
        if server.ray_address is None:
            keep_ray_to_this_machine()
        cluster.start()
        cluster.wait_for_address(stopping)
        undo.callback(supervisor.shut_down)
        supervisor.start()  # gateways get ready while the nodes load
        cluster.wait_until_up(stopping)
        wait_ready([gateways / f"{pid}.sock" for pid in supervisor.pids], stopping, supervisor.check)
        report(f"ready in {time.monotonic() - started:.1f} s")
        watched = server.port if server.operations_port is None else server.operations_port
        report(f"{url}/v1/images/generations  {_url(server, watched or port)}/metrics")
        supervisor.watch(lambda: stopping.is_asked)
    return 0


def keep_ray_to_this_machine() -> None:
    """Have the Ray that is to be started listen on loopback alone, and take calls with a token alone.

    The first by what Ray does on systems where it may only be local; the token is known to this server's processes.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # see ray_internals, which knows it too
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _gateway_command(
    config_path: Path, cluster: ClusterSupervisor, port: int, gateways: Path, jobs: Path | None
) -> list[str]:
    """Return what starts a gateway: of a Ray that runs, or of one that is to come."""
    file = cluster.address_file
    is_there = file.exists() and not cluster.is_restarting
    words = [str(config_path), file.read_text() if is_there else str(file), str(port), str(gateways)]
    words += [] if jobs is None else [str(jobs)]
    return [sys.executable, "-m", "lego_serve.gateway_process", *words, *([] if is_there else [REJOINS])]


def _keep_cluster(cluster: ClusterSupervisor, supervisor: Supervisor, gateways: Path, stopping: StopSignal) -> None:
    """Where Ray is lost, have gateways that wait for the next take the place of the others, and start the next."""
    if not (lost := cluster.lost()) or stopping.is_asked:
        return
    log.error("Ray is lost (%s); requests get 503 until another one has loaded the models", lost)
    if cluster.is_joined:  # else they wait for it still
        is_finishing = lets_requests_finish(lost)
        if not is_finishing:
            supervisor.refuse_all()
        supervisor.replace_all(lambda pid: _is_ok(gateways / f"{pid}.sock", "/health/live"))
        while is_finishing and supervisor.leaving and not stopping.is_asked:
            supervisor.see_off()
            time.sleep(0.1)
    cluster.start_another()


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
