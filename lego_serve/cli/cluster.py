"""The commands that start the parts of a server one by one, on the machines of a cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lego_serve.cli.client import print_line

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


def _report(line: str) -> None:
    print_line(line)
    sys.stdout.flush()
