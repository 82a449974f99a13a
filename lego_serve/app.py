"""The composition root: from a configuration file to a running server; the only file that sees everything."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config, logs
from lego_serve.core.workflow import Workflow
from lego_serve.core.workflow_check import nearest
from lego_serve.errors import ConfigError, LegoError
from lego_serve.plans import controlnets, lacks, needed_nodes, node_plans, template_settings
from lego_serve.serving.supervisor import Supervisor
from lego_serve.sockets import at, reserve, shared_socket, unix_socket
from lego_serve.stopping import Stopping, beside
from lego_serve.workflow_files import built_in_workflows, read_workflow

if TYPE_CHECKING:
    from lego_serve.serving.deploy import NodePlan

REMOVALS = 50
Report = Callable[[str], None]


def configured(path: Path) -> tuple[config.Settings, dict[str, Workflow]]:
    """A configuration and the workflows it serves.  Raises ConfigError or WorkflowError, one line with the file."""
    settings = config.load(path)
    try:
        return settings, load_workflows(settings, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def load_workflows(settings: config.Settings, folder: Path) -> dict[str, Workflow]:
    """The workflows a configuration serves: those it names, or the built-in ones its models allow.

    Raises ConfigError or WorkflowError.
    """
    built_in = built_in_workflows()
    found: dict[str, Workflow] = {}
    if settings.workflows is None:
        found = {name: w for name, w in built_in.items() if lacks(settings, w) is None}
    for name in settings.workflows or ():
        workflow = built_in[name] if name in built_in else _workflow_file(name, folder, built_in)
        if workflow.name in found:
            raise ConfigError(f"`workflows`: {name} is a second workflow of the name {workflow.name}")
        found[workflow.name] = workflow
    if not found:
        raise ConfigError("no built-in workflow goes with these `models`; name some under `workflows`")
    for workflow in found.values():
        if missing := lacks(settings, workflow):
            raise ConfigError(f"workflow {workflow.name} needs {missing}")
    default = settings.default_workflow
    if default is not None and default not in found:
        raise ConfigError(f"`default_workflow`: no workflow `{default}` is served{nearest(default, found)}")
    return found


def _workflow_file(name: str, folder: Path, built_in: Mapping[str, Workflow]) -> Workflow:
    """The workflow of a file named in a configuration; a word that names no file was to be a built-in one's name."""
    path = folder / name
    if not path.exists():
        is_file = path.suffix in (".yaml", ".yml", ".py")
        missing = f"there is no file {path}" if is_file else f"no built-in workflow `{name}`{nearest(name, built_in)}"
        raise ConfigError(f"`workflows`: {missing}")
    return read_workflow(path)


def serve(config_path: Path, port: int | None, report: Report) -> int:
    """Run a server until it is told to stop; answers the exit status.

    Raises LegoError, or Stopped when it was told to before it served.
    """
    stopping = Stopping()
    stopping.install()  # before anything is started, so that all that is gets taken down
    settings, workflows = configured(config_path)
    if port is not None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"there is no port {port}; ports go from 0 to 65535")
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})})
    return beside(lambda: _serve(config_path, settings, workflows, stopping, report), stopping)


def _serve(
    config_path: Path,
    settings: config.Settings,
    workflows: Mapping[str, Workflow],
    stopping: Stopping,
    report: Report,
) -> int:
    server, started = settings.server, time.monotonic()
    with contextlib.ExitStack() as undo:
        holder = undo.enter_context(reserve(server.host, server.port))
        port = holder.getsockname()[1]
        url = f"http://{at(server.host, port)}"
        folder = undo.enter_context(_temporary_folder())
        metrics, gateways = folder / "metrics", folder / "gateways"
        metrics.mkdir()
        gateways.mkdir()
        stopping.check()
        plans = node_plans(settings, workflows, folder)
        address = _start_nodes(settings, plans, folder / "ray", stopping, report, undo)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        words = [str(config_path), address, str(port), str(gateways)]
        supervisor = Supervisor(
            [sys.executable, "-m", "lego_serve.app", *words], server.gateways, partial(_forget, gateways)
        )
        undo.callback(supervisor.shut_down)
        supervisor.start()
        _wait_ready([gateways / f"{pid}.sock" for pid in supervisor.pids], stopping, supervisor.check)
        report(f"ready in {time.monotonic() - started:.1f} s")
        report(f"{url}/v1/images/generations  {url}/metrics")
        supervisor.watch(lambda: stopping.is_asked)
    return 0


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
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


def _start_nodes(
    settings: config.Settings,
    plans: "Sequence[NodePlan]",
    ray_folder: Path,
    stopping: Stopping,
    report: Report,
    undo: contextlib.ExitStack,
) -> str:
    """Start or join Ray and deploy the nodes; answers Ray's address.  ``undo`` takes them down again."""
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # read at import; else a late call starts another Ray at the stop
    from lego_serve.serving.deploy import deploy, start_ray, stop

    report("starting Ray")
    undo.callback(stop, [plan.app for plan in plans], owned=settings.server.ray_address is None)
    address = start_ray(settings.server.ray_address, config.cores(), ray_folder)
    stopping.check()
    for plan in plans:
        report(f"loading {plan.app}")
    deploy(plans, lambda plan: report(f"loaded {plan.app}"), stopping.check)
    return address


def _wait_ready(
    sockets: "Sequence[Path]", stopping: Stopping, check: Callable[[], None], timeout_s: float = 60.0
) -> None:
    """Wait until every gateway answers on its own socket: from then on one that dies leaves others on the port.

    ``check`` raises when that is not to be waited for any more.
    """
    limit = time.monotonic() + timeout_s
    while not all(_answers_ready(socket) for socket in sockets):
        stopping.check()
        check()
        if time.monotonic() > limit:
            raise ConfigError(f"the gateways did not get ready within {timeout_s:.0f} s")
        time.sleep(0.1)


def _answers_ready(socket: Path) -> bool:
    import httpx2

    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(socket)), timeout=2) as client:
            return client.get("http://gateway/health/ready").status_code == 200
    except httpx2.TransportError:  # it has not got so far yet
        return False


def _forget(gateways: Path, pid: int) -> None:
    """Clear away what a gateway that ended has left."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    (gateways / f"{pid}.sock").unlink(missing_ok=True)


def default_workflow(settings: config.Settings, workflows: Mapping[str, Workflow]) -> str:
    """What requests without a model get: what the file says, or the first by name, text to image before others."""

    def asks_more(name: str) -> bool:
        return any(given.type in ("image", "adapters", "controls", "edit") for given in workflows[name].inputs.values())

    return settings.default_workflow or min(workflows, key=lambda name: (asks_more(name), name))


def run_gateway(config_path: Path, address: str, port: int, peers: Path) -> None:
    """One gateway process: joins Ray at the address and serves HTTP until told to stop.

    It listens on the shared port, and for the other gateways on a socket of its own in the folder ``peers``.
    """
    import uvicorn

    from lego_serve.gateway.app import create_app
    from lego_serve.gateway.peers import Peers
    from lego_serve.gateway.settings import ApiKey, GatewaySettings
    from lego_serve.metrics import Metrics
    from lego_serve.serving.connect import connect
    from lego_serve.serving.coordinator import Coordinator
    from lego_serve.serving.routing_state import on_departure, on_template_use

    settings, workflows = configured(config_path)
    nodes = connect(address, needed_nodes(settings, workflows))
    coordinator = Coordinator(nodes, workflows, time.monotonic)
    server = settings.server
    keys = tuple(ApiKey(k.sha256, k.tenant, k.scope == "admin", k.weight) for k in settings.keys)
    gateway = GatewaySettings(
        default_workflow(settings, workflows),
        keys,
        server.max_pending_jobs,
        server.max_body_bytes,
        controlnets={name: frozenset(controlnets(model)) for name, model in settings.models.items()},
        edit_check_share=server.edit_check_share,
        templates=template_settings(settings, config_path.parent, peers.parent),
    )
    own = peers / f"{os.getpid()}.sock"
    metrics = Metrics()
    app = create_app(coordinator, gateway, metrics, Peers(peers, own))
    bound = [shared_socket(server.host, port), unix_socket(own)]

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def departed(replicas: frozenset[str]) -> None:
            loop.call_soon_threadsafe(coordinator.departed, replicas)

        on_departure(departed)
        on_template_use(metrics.templates)
        await asyncio.gather(*(node.probe() for node in nodes.values()))
        options = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=20, server_header=False
        )
        await uvicorn.Server(options).serve(bound)

    asyncio.run(main())


if __name__ == "__main__":
    logs.install()
    try:
        run_gateway(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    except LegoError as error:
        sys.exit(f"error: {error.message}")
