"""Runs the gateways of one machine beside a Ray that others started: `lego-serve gateway`."""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lego_serve import config
from lego_serve.app import forget_gateway, shared_folders, temporary_folder, wait_ready
from lego_serve.cluster.serve_config import on_a_cluster
from lego_serve.configuration.jobs import EMBEDDED
from lego_serve.errors import ConfigError
from lego_serve.gateway_process import WAITS
from lego_serve.job_storage import check_job_folder, job_folder
from lego_serve.places import state_folder
from lego_serve.process.ray_token import require_token
from lego_serve.process.signals import StopSignal
from lego_serve.process.sockets import host_and_port, reserve
from lego_serve.process.supervisor import Supervisor
from lego_serve.supervision.gateway_pulse import GatewayPulse


def run_gateways(config_path: Path, address: str, count: int | None, report: Callable[[str], None]) -> int:
    """Run gateways until a signal; answers the exit status.

    They listen at once and get ready when Ray and the nodes are there.  Raises LegoError where they cannot listen.
    """
    stopping = StopSignal()
    stopping.install()
    settings, _ = on_a_cluster(config_path, has_keys_file=True)
    server = settings.server
    _require_writable(settings)
    require_token(os.environ, Path.home())
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # read at import; else a late call starts a Ray of its own
    with contextlib.ExitStack() as undo:
        port = undo.enter_context(reserve(server.host, server.port)).getsockname()[1]
        if server.operations_port is not None:
            undo.enter_context(reserve(server.host, server.operations_port))
        sockets = shared_folders(undo.enter_context(temporary_folder()))
        jobs = _job_folder(settings)
        words = [str(config_path), address, str(port), str(sockets), *([] if jobs is None else [str(jobs)]), WAITS]
        supervisor = Supervisor(
            lambda: [sys.executable, "-m", "lego_serve.gateway_process", *words],
            server.gateways if count is None else count,
            partial(forget_gateway, sockets, settings, jobs),
            server.drain_timeout_s,
            hung=undo.enter_context(contextlib.closing(GatewayPulse(sockets))).hung,
        )
        undo.callback(supervisor.shut_down)
        supervisor.start()
        own = [sockets / f"{pid}.sock" for pid in supervisor.pids]
        wait_ready(own, stopping, supervisor.check, route="/health/live")
        report(f"listening at {host_and_port(server.host, server.operations_port or port)}; waiting for Ray")
        supervisor.watch(lambda: stopping.is_asked)
    return 0


def _job_folder(settings: config.Settings) -> Path | None:
    """The folder of durable jobs, which gateways of all machines share; None where there are none.

    Raises ConfigError for a store that only one machine can open.
    """
    if settings.jobs.store == EMBEDDED and settings.server.peers is not None:
        message = "`jobs.store: sqlite` is of one machine, and `server.peers` are on several: use Redis, or `none`"
        raise ConfigError(message)
    folder = job_folder(settings, settings.server.port, state_folder(settings))
    if folder is not None:
        check_job_folder(folder)
    return folder


def _require_writable(settings: config.Settings) -> None:
    """Raise ConfigError where gateways could not keep what outlives them."""
    folder = state_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`server.data`: {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"`server.data`: {folder} cannot be written")
