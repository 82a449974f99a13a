"""The composition root: from a configuration file to a running server; the only file that sees everything."""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config
from lego_serve.core.workflow import KINDS, Workflow
from lego_serve.errors import ConfigError
from lego_serve.workflow_files import built_in_workflows, read_workflow

if TYPE_CHECKING:
    from lego_serve.serving.deploy import NodePlan

Report = Callable[[str], None]


def load_workflows(settings: config.Settings, folder: Path) -> dict[str, Workflow]:
    """The workflows a configuration serves: those it names, or the built-in ones its models allow.

    Raises ConfigError or WorkflowError.
    """
    built_in = built_in_workflows()
    if not settings.workflows:
        found = {name: w for name, w in built_in.items() if w.models <= set(settings.models)}
    else:
        chosen = [built_in[name] if name in built_in else read_workflow(folder / name) for name in settings.workflows]
        found = {workflow.name: workflow for workflow in chosen}
    if not found:
        raise ConfigError("the configuration serves no workflow; name some under `workflows`")
    for workflow in found.values():
        for model in sorted(workflow.models - set(settings.models)):
            raise ConfigError(f"workflow {workflow.name} needs model `{model}`, which `models` does not have")
    return found


def needed_nodes(settings: config.Settings, workflows: Mapping[str, Workflow]) -> dict[tuple[str, str], str]:
    """The deployments the workflows need, shared among them: (model, component) to Serve application."""
    nodes = {(n.model, KINDS[n.kind].component) for w in workflows.values() for n in w.nodes.values()}
    return {(model, component): f"{model}.{component}" for model, component in sorted(nodes)}


def serve(config_path: Path, port: int | None, report: Report) -> int:
    """Run a server until it is told to stop; answers the exit status.  Raises LegoError before anything started."""
    from lego_serve.serving.supervisor import Supervisor

    settings = config.load(config_path)
    workflows = load_workflows(settings, config_path.parent)
    nodes = needed_nodes(settings, workflows)
    holder = _reserve(settings.server.host, settings.server.port if port is None else port)
    chosen_port = holder.getsockname()[1]
    url = f"http://{settings.server.host}:{chosen_port}"
    started = time.monotonic()
    address, folder = _start_nodes(settings, nodes, report)
    stopping = _stop_on_signals()
    metrics_folder = Path(tempfile.mkdtemp(prefix="lego-metrics-"))
    try:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)
        command = [sys.executable, "-m", "lego_serve.app", str(config_path), address, str(chosen_port)]
        supervisor = Supervisor(command, settings.server.gateways, _forget_metrics)
        stopping.append(supervisor.stop)
        supervisor.start()
        try:
            _wait_ready(url)
            report(f"ready in {time.monotonic() - started:.1f} s")
            report(f"{url}/v1/images/generations  {url}/metrics")
            supervisor.watch()
        finally:
            supervisor.shut_down()
    finally:
        holder.close()
        _stop_nodes(settings, nodes, folder)
        shutil.rmtree(metrics_folder, ignore_errors=True)
    return 0


def _start_nodes(
    settings: config.Settings, nodes: Mapping[tuple[str, str], str], report: Report
) -> tuple[str, Path | None]:
    from lego_serve.serving.deploy import deploy, start_ray

    report("starting Ray")
    address, folder = start_ray(settings.server.ray_address, config.cores())
    _stop_on_signals()  # Ray sets handlers of its own when it starts
    plans = [_plan(settings, model, component) for model, component in nodes]
    for plan in plans:
        report(f"loading {plan.app}")
    try:
        deploy(plans, lambda plan: report(f"loaded {plan.app}"))
    except BaseException:
        _stop_nodes(settings, nodes, folder)
        raise
    return address, folder


def _stop_nodes(settings: config.Settings, nodes: Mapping[tuple[str, str], str], folder: Path | None) -> None:
    from lego_serve.serving.deploy import stop

    stop(list(nodes.values()), owned=settings.server.ray_address is None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _plan(settings: config.Settings, model: str, component: str) -> "NodePlan":
    from lego_serve.models.spec import ModelSpec
    from lego_serve.serving.deploy import NodePlan

    said = settings.models[model]
    node: config.Node = getattr(said.nodes, component)
    spec = ModelSpec(
        model, said.path, said.family, said.revision, said.dtype, said.device, said.max_sequence_length, said.fetch
    )
    arguments: dict[str, object] = {"max_batch": node.max_batch}
    if isinstance(node, config.TextEncoderNode):
        arguments["cache_bytes"] = node.cache_bytes
    if isinstance(node, config.BackboneNode):
        names = ("order", "max_step_s", "max_rows", "checkpoint_every_steps", "fidelity", "bucket_rows")
        arguments = {name: getattr(node, name) for name in names}
    return NodePlan(spec, component, arguments, node.replicas.min, node.replicas.max, node.cpus, node.gpus)


def _reserve(host: str, port: int) -> socket.socket:
    """Bind the port without listening, so that nobody else takes it while models load.  Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:  # SO_REUSEPORT alone would join another server
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            port = trial.getsockname()[1]
        return _shared_socket(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _shared_socket(host: str, port: int) -> socket.socket:
    """A bound socket whose port several of our processes share."""
    shared = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    shared.bind((host, port))
    return shared


def _stop_on_signals() -> list[Callable[[], None]]:
    """Run every callback of the answered list at SIGINT or SIGTERM; before there is one, exit."""
    callbacks: list[Callable[[], None]] = []

    def stop(number: int, frame: object) -> None:
        if not callbacks:
            raise SystemExit(128 + number)
        for callback in callbacks:
            callback()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return callbacks


def _wait_ready(url: str, timeout_s: float = 60.0) -> None:
    import urllib.error
    import urllib.request

    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ConfigError(f"the gateways did not get ready within {timeout_s:.0f} s")


def _forget_metrics(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def run_gateway(config_path: Path, address: str, port: int) -> None:
    """One gateway process: joins Ray at the address and serves HTTP on the shared port until told to stop."""
    import uvicorn

    from lego_serve.gateway.app import create_app
    from lego_serve.gateway.settings import ApiKey, GatewaySettings
    from lego_serve.metrics import Metrics
    from lego_serve.serving.connect import connect
    from lego_serve.serving.coordinator import Coordinator
    from lego_serve.serving.router import on_departure

    settings = config.load(config_path)
    workflows = load_workflows(settings, config_path.parent)
    nodes = connect(address, needed_nodes(settings, workflows))
    coordinator = Coordinator(nodes, workflows, time.monotonic)
    server = settings.server
    keys = tuple(ApiKey(k.sha256, k.tenant, k.scope == "admin", k.weight) for k in settings.keys)
    default = settings.default_workflow or next(
        iter(sorted(workflows, key=lambda n: ("image" in workflows[n].inputs, n)))
    )
    gateway = GatewaySettings(default, keys, server.max_pending_jobs, server.max_body_bytes)
    app = create_app(coordinator, gateway, Metrics())
    bound = _shared_socket(server.host, port)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        on_departure(lambda replicas: loop.call_soon_threadsafe(coordinator.departed, replicas))
        await asyncio.gather(*(node.probe() for node in nodes.values()))
        options = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=20, server_header=False
        )
        await uvicorn.Server(options).serve([bound])

    asyncio.run(main())


if __name__ == "__main__":
    logging.basicConfig(format=json.dumps({"level": "%(levelname)s", "logger": "%(name)s", "message": "%(message)s"}))
    run_gateway(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
