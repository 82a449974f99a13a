"""The commands that start the parts of a server one by one, on the machines of a cluster."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import typer

from lego_serve.cli.client import DEFAULT_URL, Url, print_line
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, help="What a cluster needs to know of a configuration.")
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, the same on every machine.")]


@app.command("serve-config")
def serve_config(
    config_path: Config,
    at: Annotated[
        Path | None, typer.Option(help="Where the nodes will find the file; by default where it is here.")
    ] = None,
) -> None:
    """Print Ray Serve's configuration of the nodes: `serveConfigV2` of a RayService, or for `serve deploy`."""
    from lego_serve.cluster.serve_config import serve_config as text

    print_line(text(config_path, at).rstrip("\n"))


@app.command("rotate-links")
def rotate_links(config_path: Config) -> None:
    """Sign links to images of jobs with a new secret, once the gateways have been restarted.

    Links of the last secret stay good: run it twice where that is known to others.
    """
    from lego_serve.cluster.link_secret import rotate_link_secret

    rotate_link_secret(config_path)
    print_line("links have a new secret; restart the gateways")


def gateway(
    config_path: Config,
    address: Annotated[str, typer.Option(help="Ray's address, `HOST:PORT`; `auto` is this machine's.")] = "auto",
    count: Annotated[
        int | None, typer.Option(min=1, max=64, help="Gateway processes, instead of `server.gateways`.")
    ] = None,
) -> None:
    """Run gateways beside a Ray node, for nodes that `serve-config` describes; waits for both."""
    from lego_serve.cluster.gateways import run_gateways

    raise typer.Exit(run_gateways(config_path, address, count, _report))


def node(
    ray: Annotated[list[str], typer.Argument(metavar="-- RAY START...", help="Ray's own command, with `--block`.")],
    gateways: Annotated[int, typer.Option(min=0, max=64, help="Gateway processes beside it.")] = 0,
    config: Annotated[Path | None, typer.Option(help="The configuration of the gateways.")] = None,
) -> None:
    """Run a Ray node, and gateways on it, as the first process of a container; gateways end before Ray."""
    from lego_serve.cluster.node import run_node

    raise typer.Exit(run_node(config, gateways, ray, _report))


def health(url: Url = DEFAULT_URL, timeout_s: Annotated[float, typer.Option(min=0.1, max=60)] = 4.0) -> None:
    """Say by the exit status whether a server is ready, for health checks of containers."""
    try:
        with urlopen(f"{url}/health/ready", timeout=timeout_s) as answer:
            word = f"{answer.status}"
    except (OSError, ValueError) as error:
        raise LegoError(f"{url}: not ready: {getattr(error, 'reason', None) or error}") from None
    print_line(f"ready: {word}")


def _report(line: str) -> None:
    print_line(line)
    sys.stdout.flush()
