"""One gateway process: joins Ray, serves HTTP, and ends when told to."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lego_serve import config
from lego_serve.configuration.jobs import EMBEDDED, NO_STORE
from lego_serve.configuration.server import Server
from lego_serve.core.rate_limits import TenantLimits
from lego_serve.core.scheduling.admission import DeadlineLimits
from lego_serve.core.workflow.graph import Workflow
from lego_serve.deployment import controlnets, needed_nodes, pending_images, template_settings
from lego_serve.errors import LegoError
from lego_serve.job_storage import new_owner, open_storage
from lego_serve.process import json_logging
from lego_serve.process.sockets import allow_many_files, shared_socket, unix_socket
from lego_serve.served_workflows import configured, default_workflow

if TYPE_CHECKING:
    from lego_serve.gateway.settings import GatewaySettings, KeptImageSettings, LimitSettings
    from lego_serve.gateway.transport.limits import ConnectionLimits
    from lego_serve.gateway.transport.server import GatewayServer
    from lego_serve.metrics import Metrics
    from lego_serve.serving.cluster.handles import RayNode
    from lego_serve.serving.coordinator.coordinator import Coordinator


OWNER = ".owner"  # ends the name of the file in which a gateway says as whom it has durable jobs


def run_gateway(config_path: Path, address: str, port: int, peers: Path, jobs: Path | None = None) -> None:
    """Join Ray at the address and serve HTTP until a signal ends the process.

    The gateway listens on the shared port, and for the other gateways on a socket of its own in the folder ``peers``.
    ``jobs`` is the folder of durable jobs; without it there are none.
    """
    from lego_serve.gateway.app import create_app
    from lego_serve.gateway.peers import Peers
    from lego_serve.gateway.telemetry.export import otlp_provider
    from lego_serve.gateway.transport.draining import Draining
    from lego_serve.gateway.transport.server import create_server
    from lego_serve.metrics import Metrics
    from lego_serve.serving.cluster.connect import connect
    from lego_serve.serving.coordinator.coordinator import Coordinator

    settings, workflows = configured(config_path)
    nodes = connect(address, needed_nodes(settings, workflows))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it serves; Ray's own handler prints where each thread was
    every = {name: model.nodes.backbone.checkpoint_every_steps for name, model in settings.models.items()}
    metrics = Metrics()
    coordinator = Coordinator(nodes, workflows, time.monotonic, every, metrics.record_dataflow_check)
    gateway = _gateway_settings(settings, workflows, config_path.parent, peers.parent)
    gateway = replace(gateway, kept_images=_kept_images(settings.jobs, jobs or peers.parent))
    own = peers / f"{os.getpid()}.sock"
    draining, owner = Draining(), new_owner()
    own.with_suffix(OWNER).write_text(owner)
    storage = open_storage(settings, jobs, owner)
    provider = otlp_provider() if settings.server.traces else None
    app = create_app(coordinator, coordinator, gateway, metrics, Peers(peers, own), draining, storage, provider)
    bound = [shared_socket(settings.server.host, port), unix_socket(own)]
    allow_many_files()
    limits = _connection_limits(settings.server)
    server = create_server(app, limits, draining, settings.server.drain_timeout_s, log_config=None)
    asyncio.run(_serve(server, bound, nodes.values(), coordinator, metrics))


def _gateway_settings(
    settings: config.Settings, workflows: Mapping[str, Workflow], beside: Path, state: Path
) -> "GatewaySettings":
    from lego_serve.gateway.settings import ApiKey, GatewaySettings

    server = settings.server
    return GatewaySettings(
        default_workflow(settings, workflows),
        tuple(ApiKey(k.sha256, k.tenant, k.scope == "admin", k.weight) for k in settings.keys),
        server.max_pending_jobs,
        server.max_body_bytes,
        server.max_image_pixels,
        controlnets={name: frozenset(controlnets(model)) for name, model in settings.models.items()},
        quality_check_fraction=server.quality_check_fraction,
        templates=template_settings(settings, beside, state),
        allowed_hosts=None if settings.keys and not server.allowed_hosts else frozenset(server.allowed_hosts),
        cors_origins=server.cors_origins,
        aliases=settings.aliases,
        max_pending_images=pending_images(settings),
        public_url=server.public_url,
        default_response_format=server.default_response_format,
        deadlines=DeadlineLimits(server.default_deadline_ms / 1000, server.max_deadline_ms / 1000),
        limits=_limit_settings(settings),
        access_log=server.access_log,
        log_prompts=server.log_prompts,
        compat=frozenset(settings.compat),
    )


def _limit_settings(settings: config.Settings) -> "LimitSettings":
    from lego_serve.gateway.settings import LimitSettings

    usual = settings.tenant_limits
    own = {name: usual.model_copy(update=limits.given) for name, limits in settings.tenants.items()}
    redis_url = None if settings.jobs.store in (EMBEDDED, NO_STORE) else settings.jobs.store
    return LimitSettings(
        _tenant_limits(usual), {name: _tenant_limits(limits) for name, limits in own.items()}, redis_url
    )


def _tenant_limits(limits: config.TenantLimits) -> TenantLimits:
    return TenantLimits(limits.requests_per_minute, limits.work_per_minute, limits.max_in_flight, limits.max_queued)


def _kept_images(jobs: config.Jobs, folder: Path) -> "KeptImageSettings":
    from lego_serve.gateway.settings import KeptImageSettings

    return KeptImageSettings(folder / "kept", jobs.linked_images_s, jobs.linked_images_bytes)


def _connection_limits(server: Server) -> "ConnectionLimits":
    from lego_serve.gateway.transport.limits import ConnectionLimits

    return ConnectionLimits(**server.limits.model_dump(), linger_bytes=server.max_body_bytes)


async def _serve(
    server: "GatewayServer",
    bound: list[socket.socket],
    nodes: Iterable["RayNode"],
    coordinator: "Coordinator",
    metrics: "Metrics",
) -> None:
    """Wait until all nodes answer, then serve on the bound sockets."""
    from lego_serve.serving.cluster.routing_state import on_departure, on_template_use

    loop = asyncio.get_running_loop()

    def departed(replicas: frozenset[str]) -> None:
        loop.call_soon_threadsafe(coordinator.departed, replicas)

    on_departure(departed)
    on_template_use(metrics.set_template_use)
    serve_log = logging.getLogger("ray.serve")
    level = serve_log.level
    serve_log.setLevel(logging.ERROR)  # it warns of replicas that answer slowly, which they do while others load
    await asyncio.gather(*(node.probe() for node in nodes))
    serve_log.setLevel(level)
    await server.serve(bound)


if __name__ == "__main__":
    json_logging.install()
    try:
        jobs = Path(sys.argv[5]) if len(sys.argv) > 5 else None
        run_gateway(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), jobs)
    except LegoError as error:
        sys.exit(f"error: {error.message}")
