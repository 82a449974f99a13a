"""One gateway process: joins Ray, serves HTTP, and ends when told to."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lego_serve import config
from lego_serve.configuration.jobs import EMBEDDED, NO_STORE
from lego_serve.configuration.server import Server
from lego_serve.core.rate_limits import TenantLimits
from lego_serve.core.scheduling.admission import DeadlineLimits
from lego_serve.core.workflow.graph import Workflow
from lego_serve.deployment import controlnets, needed_nodes, pending_images, scaled_apps, template_settings, tier_book
from lego_serve.errors import LegoError
from lego_serve.job_storage import new_owner, open_blobs, open_storage
from lego_serve.places import state_folder
from lego_serve.process import json_logging
from lego_serve.process.heap import collect_in_quiet, settle_heap
from lego_serve.process.sockets import allow_many_files, shared_socket, unix_socket
from lego_serve.process.supervisor import REFUSE
from lego_serve.served_workflows import configured, default_workflow

if TYPE_CHECKING:
    from lego_serve.gateway.settings import GatewaySettings, KeptImageSettings, LimitSettings
    from lego_serve.gateway.transport.limits import ConnectionLimits
    from lego_serve.gateway.transport.server import GatewayServer
    from lego_serve.metrics import Metrics
    from lego_serve.serving.cluster.handles import LazyNode, RayNode
    from lego_serve.serving.coordinator.coordinator import Coordinator

REJOINS = "--rejoins"  # the same of one that takes the place of another, whose Ray is lost
WAITS = "--waits"  # on the command line of a gateway that starts before Ray and its nodes
SCALES_S = 5.0  # between two looks at how many replicas nodes are to have
OWNER = ".owner"  # ends the name of the file in which a gateway says as whom it has durable jobs


def run_gateway(
    config_path: Path, address: str, port: int, peers: Path, jobs: Path | None = None, *, mode: str = ""
) -> None:
    """Join Ray at the address and serve HTTP until a signal ends the process.

    The gateway listens on the shared port, and for the other gateways on a socket of its own in the folder ``peers``.
    ``jobs`` is the folder of durable jobs; without it there are none.  In the modes WAITS and REJOINS it answers before
    there is a Ray with its nodes; in the latter ``address`` is a file that will say where that is.
    """
    from lego_serve.gateway.app import create_app
    from lego_serve.gateway.peers import Machines, Peers
    from lego_serve.gateway.telemetry.export import otlp_provider
    from lego_serve.gateway.transport.draining import Draining
    from lego_serve.gateway.transport.server import create_server
    from lego_serve.metrics import Metrics
    from lego_serve.process.metric_files import reserve_metric_files
    from lego_serve.serving.cluster.connect import Reachability, connect, expected, join
    from lego_serve.serving.cluster.handles import LazyNode
    from lego_serve.serving.cluster.ray_dispatcher import dispatchers_of
    from lego_serve.serving.cluster.scale_records import ClusterScaling
    from lego_serve.serving.coordinator.coordinator import Coordinator

    settings, workflows = configured(config_path)
    waits, joins_late = mode == WAITS, mode in (WAITS, REJOINS)
    apps, ray = needed_nodes(settings, workflows), Reachability()
    nodes: Mapping[tuple[str, str], RayNode | LazyNode] = expected(apps) if joins_late else connect(address, apps)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it serves; Ray's own handler prints where each thread was
    is_alone = settings.server.gateways == 1 and not waits
    every = {name: model.nodes.backbone.checkpoint_every_steps for name, model in settings.models.items()}
    reserve_metric_files()
    metrics = Metrics()
    metrics.begin_at_zero(workflows.values())
    state = state_folder(settings) if waits else peers.parent  # other machines have gateways too
    gateway = _gateway_settings(settings, workflows, config_path, state)
    scaling = ClusterScaling(scaled_apps(apps))
    coordinator = Coordinator(
        nodes,
        workflows,
        time.monotonic,
        every,
        metrics.record_dataflow_check,
        is_reachable=lambda: ray.is_reachable,
        apps={key: place.app for key, place in apps.items()},
        is_alone=is_alone,
        dispatchers=() if is_alone else dispatchers_of(apps.values(), settings.workers.replicas.max),
        scaling=scaling,
        books=gateway.tiers,
    )
    draining, owner = Draining(), new_owner()
    limits_here = replace(gateway.limits, owner=owner)
    gateway = replace(gateway, kept_images=_kept_images(settings.jobs, jobs or state), limits=limits_here)
    own = peers / f"{os.getpid()}.sock"
    own.with_suffix(OWNER).write_text(owner)
    storage = open_storage(settings, jobs, owner)
    provider = otlp_provider() if settings.server.traces else None
    others = Peers(peers, own, None if settings.server.peers is None else Machines(settings.server.peers))
    app = create_app(coordinator, coordinator, gateway, metrics, others, draining, storage, provider)
    at_once, when_ready = _sockets(settings.server, port, own, joins_late)
    allow_many_files()
    limits = _connection_limits(settings.server)
    server = create_server(app, limits, draining, settings.server.drain_timeout_s, log_config=None)

    async def get_ready() -> None:
        asyncio.get_running_loop().add_signal_handler(REFUSE, draining.expire)
        _listen_to_routers(coordinator, metrics)
        if joins_late:
            where = Path(address).read_text if mode == REJOINS else lambda: address
            await join(where, apps, [node for node in nodes.values() if isinstance(node, LazyNode)])
            server.handle_signals()  # again: Ray's C++ part takes them
        else:
            await _probe(nodes.values())
        settle_heap()
        for bound in when_ready:
            await server.listen(bound)
        reports = scaling.report_waiting(coordinator.pools.waiting)
        garbage = collect_in_quiet(lambda: coordinator.in_flight == 0)
        await asyncio.gather(ray.watch(), _watch_scales(coordinator, metrics), reports, garbage)

    asyncio.run(_serve(server, at_once, get_ready()))


def _sockets(server: Server, port: int, own: Path, waits: bool) -> tuple[list[socket.socket], list[socket.socket]]:
    """What to listen on at once, and what when the nodes have answered.

    The port of requests waits where something else answers health checks: a gateway that is replaced gets no requests
    that another one of its port could serve.
    """
    api, at_once = shared_socket(server.host, port), [unix_socket(own)]
    if server.operations_port is not None:
        at_once.append(shared_socket(server.host, server.operations_port))
    elif waits:
        return [*at_once, api], []
    return at_once, [api]


def _gateway_settings(
    settings: config.Settings, workflows: Mapping[str, Workflow], config_path: Path, state: Path
) -> "GatewaySettings":
    from lego_serve.gateway.settings import ApiKey, GatewaySettings, KeysFile, ModelFacts

    def keys(settings: config.Settings) -> tuple[ApiKey, ...]:
        return tuple(ApiKey(k.sha256, k.tenant, k.scope == "admin", k.weight) for k in settings.keys)

    server, keys_file = settings.server, None
    if settings.keys_file is not None:
        file = config.keys_file(settings, config_path)
        keys_file = KeysFile(file, lambda: keys(config.load(config_path)))
    return GatewaySettings(
        default_workflow(settings, workflows),
        keys(settings),
        server.max_pending_jobs,
        server.max_body_bytes,
        server.max_image_pixels,
        controlnets={name: frozenset(controlnets(model)) for name, model in settings.models.items()},
        quality_check_fraction=server.quality_check_fraction,
        templates=template_settings(settings, config_path.parent, state),
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
        keys_file=keys_file,
        operations_port=server.operations_port,
        tiers={name: tier_book(settings, name) for name in settings.models},
        slo_s=settings.slo_s,
        models={name: ModelFacts(model.family, model.dtype, model.device) for name, model in settings.models.items()},
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
    return TenantLimits(
        requests=limits.requests_per_minute,
        work=limits.work_per_minute,
        in_flight=limits.max_in_flight,
        queued=limits.max_queued,
        stored_bytes=limits.max_stored_bytes,
    )


def _kept_images(jobs: config.Jobs, folder: Path) -> "KeptImageSettings":
    from lego_serve.gateway.settings import KeptImageSettings

    return KeptImageSettings(open_blobs(jobs, folder), jobs.linked_images_s, jobs.linked_images_bytes)


def _connection_limits(server: Server) -> "ConnectionLimits":
    from lego_serve.gateway.transport.limits import ConnectionLimits

    return ConnectionLimits(**server.limits.model_dump(), linger_bytes=server.max_body_bytes)


def _listen_to_routers(coordinator: "Coordinator", metrics: "Metrics") -> None:
    """Hear what this process's routers learn of replicas, from their threads."""
    from lego_serve.serving.cluster import routing_state

    def departed(replicas: frozenset[str]) -> None:
        loop.call_soon_threadsafe(coordinator.departed, replicas)

    def counted(app: str, resident: Mapping[str, Collection[str]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and routers have not yet
            loop.call_soon_threadsafe(coordinator.pools.report, app, resident)

    def unwell(replicas: frozenset[str]) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(coordinator.pools.set_aside, replicas)

    loop = asyncio.get_running_loop()
    routing_state.on_departure(departed)
    routing_state.on_unwell(unwell)
    routing_state.on_replicas(counted)
    routing_state.on_template_use(metrics.set_template_use)
    routing_state.on_memory_use(metrics.set_memory_use)


async def _watch_scales(coordinator: "Coordinator", metrics: "Metrics") -> None:
    """Have the metrics tell how many replicas nodes are to have."""
    while True:
        metrics.set_scales(await coordinator.scales())
        await asyncio.sleep(SCALES_S)


async def _probe(nodes: "Iterable[RayNode | LazyNode]") -> None:
    """Wait until all nodes answer."""
    serve_log = logging.getLogger("ray.serve")
    level = serve_log.level
    serve_log.setLevel(logging.ERROR)  # it warns of replicas that answer slowly, which they do while others load
    await asyncio.gather(*(node.probe() for node in nodes))
    serve_log.setLevel(level)


async def _serve(server: "GatewayServer", at_once: list[socket.socket], get_ready: Coroutine[Any, Any, None]) -> None:
    """Serve until a signal, and get ready meanwhile; a failure of that ends the server."""
    getting_ready = asyncio.ensure_future(get_ready)
    getting_ready.add_done_callback(lambda _: server.stop())
    await server.serve(at_once)
    getting_ready.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await getting_ready


if __name__ == "__main__":
    json_logging.install()
    try:
        words = [word for word in sys.argv[1:] if word not in (WAITS, REJOINS)]
        folder = Path(words[4]) if len(words) > 4 else None
        how = next((mode for mode in (WAITS, REJOINS) if mode in sys.argv), "")
        run_gateway(Path(words[0]), words[1], int(words[2]), Path(words[3]), folder, mode=how)
    except LegoError as error:
        sys.exit(f"error: {error.message}")
