"""The command line: ``lego-serve serve | generate | models | jobs | cancel | pause | resume | replicas | ...``."""

import base64
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from lego_serve import config
from lego_serve.cli_adapters import app as adapters_app
from lego_serve.cli_adapters import table_of
from lego_serve.cli_http import DEFAULT_URL, KeyOption, Url, ask, err, out, quoted, show
from lego_serve.cli_templates import app as templates_app
from lego_serve.cli_workflows import app as workflows_app
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve diffusion workflows, model by model.")
app.add_typer(workflows_app, name="workflows")
app.add_typer(adapters_app, name="adapters")
app.add_typer(templates_app, name="templates")
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@app.command()
def serve(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; configs/tiny.yaml if none.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Listen here instead of where the file says; 0 picks a free port.")
    ] = None,
) -> None:
    """Start a server and keep it running until Ctrl-C."""
    from lego_serve.app import serve as run

    def report(line: str) -> None:
        out.print(line, highlight=False, soft_wrap=True)
        sys.stdout.flush()

    raise typer.Exit(run(config_path or config.default_config(), port, report))


@app.command()
def generate(
    prompt: str,
    file: Annotated[Path, typer.Option("--out", help="Where to write the image.")] = Path("image.png"),
    model: str | None = None,
    size: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    seed: int | None = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Ask a running server for one image."""
    output_format = _output_format(file)
    if guidance is not None and not math.isfinite(guidance):
        raise LegoError("--guidance must be a finite number")
    body = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "seed": seed,
        "output_format": output_format,
    }
    answer = ask("POST", f"{url}/v1/images/generations", key, {k: v for k, v in body.items() if v is not None})
    try:
        file.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None
    nodes = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in answer["lego"]["nodes"].items())
    out.print(f"{file}: {answer['size']}, seed {answer['lego']['seed']} ({nodes})", highlight=False, soft_wrap=True)


@app.command()
def models(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List what a running server serves."""
    table = Table("model", "inputs")
    for card in ask("GET", f"{url}/v1/models", key)["data"]:
        table.add_row(card["id"], ", ".join(card["lego"]["inputs"]))
    show(table)


@app.command()
def jobs(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the jobs in flight of a running server, oldest first."""
    table = Table(Column("job", overflow="fold"), "workflow", "tenant", "age", "nodes")
    for card in ask("GET", f"{url}/v1/admin/jobs", key)["data"]:
        nodes = ", ".join(f"{name} {state}" for name, state in card["nodes"].items()) + ", paused" * card["paused"]
        table.add_row(card["id"], card["workflow"], card["tenant"], f"{card['age_s']:.1f} s", nodes)
    show(table)


@app.command()
def cancel(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Cancel a job in flight, whoever asked for it."""
    ask("DELETE", f"{url}/v1/admin/jobs/{quoted(job)}", key)
    out.print(f"{job}: cancelled", highlight=False, soft_wrap=True)


@app.command()
def pause(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Let a job's images wait between two steps; its deadline goes on."""
    ask("POST", f"{url}/v1/admin/jobs/{quoted(job)}/pause", key)
    out.print(f"{job}: paused", highlight=False, soft_wrap=True)


@app.command()
def resume(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Let a paused job go on from where it stands."""
    ask("POST", f"{url}/v1/admin/jobs/{quoted(job)}/resume", key)
    out.print(f"{job}: resumed", highlight=False, soft_wrap=True)


@app.command()
def replicas(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the backbone replicas of a running server."""
    table = Table("replica", "node")
    for card in ask("GET", f"{url}/v1/admin/replicas", key)["data"]:
        table.add_row(card["id"], card["node"])
    show(table)


@app.command()
def drain(replica: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Move a backbone replica's lanes elsewhere, from fresh checkpoints, and have it replaced."""
    answer = ask("POST", f"{url}/v1/admin/replicas/{quoted(replica)}/drain", key)
    out.print(f"{replica}: drained, {answer['calls_moved']} calls moved", highlight=False, soft_wrap=True)


@adapters_app.command("list")
def list_adapters(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the adapters of a running server."""
    show(table_of(ask("GET", f"{url}/v1/admin/adapters", key)["data"]))


def _output_format(file: Path) -> str:
    """The format of an image by its file's name.  Raises LegoError when it is none, or has no folder to lie in."""
    found = FORMATS.get(file.suffix.lower())
    if found is None:
        raise LegoError(f"{file}: the name must end in {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise LegoError(f"{file}: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise LegoError(f"{file}: cannot be written")
    return found


def main() -> None:
    """The ``lego-serve`` script: errors of ours are one line and exit status 1."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        app()
    except LegoError as error:
        err.print(f"[red]error:[/red] {escape(error.message)}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
