"""The command line: ``lego-serve serve | generate | models | jobs | cancel | pause | resume | replicas | ...``."""

import base64
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from lego_serve import config
from lego_serve.cli.adapters import app as adapters_app
from lego_serve.cli.addons import controlnet_entries, lora_entries, unused_addons
from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, ask, quoted, say, show
from lego_serve.cli.templates import app as templates_app
from lego_serve.cli.workflows import app as workflows_app
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve diffusion workflows, model by model.")
app.add_typer(workflows_app, name="workflows")
app.add_typer(adapters_app, name="adapters")
app.add_typer(templates_app, name="templates")
err = Console(stderr=True)
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
Loras = Annotated[list[str] | None, typer.Option(metavar="NAME[:SCALE]", help="An adapter; several may be given.")]
ControlNets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:FILE[:WEIGHT]", help="A ControlNet and its image; several may be given."),
]


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
        say(line)
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
    lora: Loras = None,
    controlnet: ControlNets = None,
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
        "lora": lora_entries(lora) if lora else None,
        "controlnet": controlnet_entries(controlnet) if controlnet else None,
    }
    _write(file, ask("POST", f"{url}/v1/images/generations", key, {k: v for k, v in body.items() if v is not None}))


def _write(file: Path, answer: dict[str, Any]) -> None:
    """Write the image of an answer, and tell of it."""
    try:
        file.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None
    nodes = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in answer["lego"]["nodes"].items())
    say(f"{file}: {answer['size']}, seed {answer['lego']['seed']} ({nodes})")
    for name in unused_addons(answer["lego"]):
        say(f"{name} took part in none of the steps")


@app.command()
def models(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List what a running server serves."""
    table = Table("model", "inputs", "ControlNets")
    for card in ask("GET", f"{url}/v1/models", key)["data"]:
        table.add_row(card["id"], ", ".join(card["lego"]["inputs"]), ", ".join(card["lego"]["controlnets"]))
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
    say(f"{job}: cancelled")


@app.command()
def pause(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Let a job's images wait between two steps; its deadline goes on."""
    ask("POST", f"{url}/v1/admin/jobs/{quoted(job)}/pause", key)
    say(f"{job}: paused")


@app.command()
def resume(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Let a paused job go on from where it stands."""
    ask("POST", f"{url}/v1/admin/jobs/{quoted(job)}/resume", key)
    say(f"{job}: resumed")


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
    say(f"{replica}: drained, {answer['calls_moved']} calls moved")


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
