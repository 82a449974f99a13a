"""The command line: ``lego-serve serve | generate | edit | models | jobs | cancel | pause | resume | ...``."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lego_serve import __version__, config
from lego_serve.cli.adapters import app as adapters_app
from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, print_line, print_table, request, url_part
from lego_serve.cli.cluster import app as cluster_app
from lego_serve.cli.cluster import gateway, health, node
from lego_serve.cli.images import edit, generate
from lego_serve.cli.jobs import app as jobs_app
from lego_serve.cli.scale import scale
from lego_serve.cli.simulate import run as run_simulation
from lego_serve.cli.templates import app as templates_app
from lego_serve.cli.tune.app import app as tune_app
from lego_serve.cli.workflows import app as workflows_app
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve diffusion workflows, model by model.")
app.add_typer(workflows_app, name="workflows")
app.add_typer(adapters_app, name="adapters")
app.add_typer(templates_app, name="templates")
app.add_typer(jobs_app, name="jobs")
app.add_typer(tune_app, name="tune")
app.add_typer(cluster_app, name="cluster")
for command in (gateway, node, health, scale):
    app.command()(command)
app.command(name="simulate")(run_simulation)
err = Console(stderr=True)
app.command()(generate)
app.command()(edit)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"lego-serve {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve diffusion workflows, model by model."""


@app.command()
def serve(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; by default configs/tiny.yaml.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port, instead of the file's; 0 picks a free one.")] = None,
) -> None:
    """Start a server and keep it running until Ctrl-C."""
    from lego_serve.app import serve as run

    def report(line: str) -> None:
        print_line(line)
        sys.stdout.flush()

    raise typer.Exit(run(config_path or config.default_config(), port, report))


@app.command()
def models(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the models of a running server."""
    table = Table("model", "inputs", "ControlNets")
    for card in request("GET", f"{url}/v1/models", key)["data"]:
        table.add_row(card["id"], ", ".join(card["lego"]["inputs"]), ", ".join(card["lego"]["controlnets"]))
    print_table(table)


@app.command()
def cancel(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Cancel a job in flight, of any tenant."""
    request("DELETE", f"{url}/v1/admin/jobs/{url_part(job)}", key)
    print_line(f"{job}: cancelled")


@app.command()
def pause(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Pause a job before its next step; its deadline keeps running."""
    request("POST", f"{url}/v1/admin/jobs/{url_part(job)}/pause", key)
    print_line(f"{job}: paused")


@app.command()
def resume(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Resume a paused job at its next step."""
    request("POST", f"{url}/v1/admin/jobs/{url_part(job)}/resume", key)
    print_line(f"{job}: resumed")


@app.command()
def replicas(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the backbone replicas of a running server."""
    table = Table("replica", "node")
    for card in request("GET", f"{url}/v1/admin/replicas", key)["data"]:
        table.add_row(card["id"], card["node"])
    print_table(table)


@app.command()
def drain(replica: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Move a backbone replica's lanes to others, from fresh checkpoints, and replace it."""
    answer = request("POST", f"{url}/v1/admin/replicas/{url_part(replica)}/drain", key)
    print_line(f"{replica}: drained, {answer['calls_moved']} calls moved")


def main() -> None:
    """Run the ``lego-serve`` script: a LegoError is one line and exit status 1."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        app()
    except LegoError as error:
        err.print(f"[red]error:[/red] {escape(error.message)}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
