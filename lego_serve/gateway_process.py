"""One gateway process: joins Ray, serves HTTP, and ends when told to."""

import asyncio
import os
import sys
import time
from pathlib import Path

from lego_serve.deployment import configured, controlnets, default_workflow, needed_nodes, template_settings
from lego_serve.errors import LegoError
from lego_serve.process import json_logging
from lego_serve.process.sockets import shared_socket, unix_socket


def run_gateway(config_path: Path, address: str, port: int, peers: Path) -> None:
    """One gateway process: joins Ray at the address and serves HTTP until told to stop.

    It listens on the shared port, and for the other gateways on a socket of its own in the folder ``peers``.
    """
    import uvicorn

    from lego_serve.gateway.app import create_app
    from lego_serve.gateway.peers import Peers
    from lego_serve.gateway.settings import ApiKey, GatewaySettings
    from lego_serve.metrics import Metrics
    from lego_serve.serving.cluster.connect import connect
    from lego_serve.serving.cluster.routing_state import on_departure, on_template_use
    from lego_serve.serving.coordinator.coordinator import Coordinator

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
        quality_check_fraction=server.quality_check_fraction,
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
        on_template_use(metrics.set_template_use)
        await asyncio.gather(*(node.probe() for node in nodes.values()))
        options = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=20, server_header=False
        )
        await uvicorn.Server(options).serve(bound)

    asyncio.run(main())


if __name__ == "__main__":
    json_logging.install()
    try:
        run_gateway(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    except LegoError as error:
        sys.exit(f"error: {error.message}")
